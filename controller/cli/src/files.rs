//! `towpath init` and `towpath check`: configuration files, without a controller.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use controller::compose::{Composition, HostPart};
use controller::config::{Config, EXAMPLE, LoadError};

use crate::Failure;

/// Writes the commented example.
pub fn init(file: &Path) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(file);
    let written = opened.and_then(|mut out| out.write_all(EXAMPLE.as_bytes()));
    match written {
        Ok(()) => {
            let file = file.display();
            writeln!(io::stdout(), "{file} written; change it, then: towpath check {file}")?;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::Other(format!("{} is there already and is left alone; name another file", file.display())))
        }
        Err(error) => Err(Failure::Other(format!("{}: can't be written: {error}", file.display()))),
    }
}

/// Says every mistake of a file, or what it amounts to.
pub fn check(file: &Path) -> Result<(), Failure> {
    match controller::check(file) {
        Ok((config, composition)) => {
            for warning in &composition.warnings {
                eprintln!("warning: {warning}");
            }
            io::stdout().write_all(summary(file, &config, &composition).as_bytes())?;
            Ok(())
        }
        Err(LoadError::Wrong(errors)) => {
            let lines: Vec<String> = errors.problems.iter().map(ToString::to_string).collect();
            Err(Failure::Usage(lines.join("\n")))
        }
        Err(error @ LoadError::Read { .. }) => Err(Failure::of(error)),
    }
}

fn summary(file: &Path, config: &Config, composition: &Composition) -> String {
    let chains: usize = config.tenants.iter().map(|tenant| tenant.chains.len()).sum();
    let mut text = format!(
        "{}: ok: {}, {}, {}, {} instance paths, {} tags\n",
        file.display(),
        counted(config.hosts.len(), "host"),
        counted(config.tenants.len(), "tenant"),
        counted(chains, "chain"),
        composition.paths.len(),
        2 * composition.paths.len(),
    );
    for (host, part) in config.hosts.iter().zip(&composition.hosts) {
        text += &format!(
            "  {}: {}, {}, {}\n",
            host.name,
            lcores(part),
            counted(part.launch.ports.len(), "port"),
            counted(part.tags.len(), "tag rule")
        );
    }
    text
}

fn lcores(part: &HostPart) -> String {
    let spare = part.spare_lcores();
    let used = counted(part.launch.lcores.len() - spare, "lcore");
    if spare == 0 { used } else { format!("{used} and {spare} spare") }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_passes_check_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("towpath.yaml");
        init(&file).unwrap();
        check(&file).unwrap();
        let again = init(&file).unwrap_err().to_string();
        assert!(again.contains("left alone"), "{again}");
    }

    #[test]
    fn every_mistake_is_a_line_and_the_status_is_that_of_wrong_usage() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("wrong.yaml");
        std::fs::write(&file, EXAMPLE.replace("vni: 100", "vni: 99999999").replace("host: host2", "host: hots2"))
            .unwrap();
        let failure = check(&file).unwrap_err();
        assert!(matches!(failure, Failure::Usage(_)));
        assert!(failure.to_string().lines().count() >= 2, "{failure}");
    }

    #[test]
    fn the_summary_counts_what_the_example_has() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("towpath.yaml");
        init(&file).unwrap();
        let (config, composition) = controller::check(&file).unwrap();
        let text = summary(Path::new("f"), &config, &composition);
        assert!(
            text.starts_with(
                "f: ok: 2 hosts, 1 tenant, 2 chains, 2 instance paths, 4 tags\n  host1: 3 lcores and 3 spare"
            ),
            "{text}"
        );
    }
}
