//! Which controller is meant, and the way to it.

use std::path::{Path, PathBuf};

use controller::api::{self, Client, Request, Response};

use crate::Failure;
use crate::arguments::Which;

/// Connects to the controller that is meant.
pub fn connect(which: &Which) -> Result<Client, Failure> {
    Ok(Client::connect(&socket(which, Path::new(api::RUN_ROOT))?)?)
}

/// Asks one question.
pub fn ask(which: &Which, request: &Request) -> Result<Response, Failure> {
    Ok(connect(which)?.call(request)?)
}

/// The socket that is meant: named, or the only one below the root of run directories.
fn socket(which: &Which, root: &Path) -> Result<PathBuf, Failure> {
    if let Some(run_dir) = &which.run_dir {
        return Ok(run_dir.join(api::SOCKET_NAME));
    }
    if let Some(host) = &which.host {
        return Ok(root.join(host).join(api::SOCKET_NAME));
    }
    if let Some(socket) = &which.socket {
        return Ok(socket.clone());
    }
    let mut found = api::sockets_below(root);
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::Other(format!(
            "no controller runs on this machine (nothing below {}); start towpath-controller, or name its --run-dir",
            root.display()
        ))),
        _ => {
            let hosts: Vec<String> = found.iter().filter_map(|path| host_of(path)).collect();
            Err(Failure::Usage(format!("several controllers run here; name one: --host {}", hosts.join(" | --host "))))
        }
    }
}

fn host_of(socket: &Path) -> Option<String> {
    Some(socket.parent()?.file_name()?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(hosts: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for host in hosts {
            std::fs::create_dir(root.path().join(host)).unwrap();
            std::fs::write(root.path().join(host).join(api::SOCKET_NAME), "").unwrap();
        }
        root
    }

    #[test]
    fn the_only_controller_need_not_be_named() {
        let root = root_with(&["host1"]);
        let found = socket(&Which::default(), root.path()).unwrap();
        assert_eq!(found, root.path().join("host1").join(api::SOCKET_NAME));
    }

    #[test]
    fn none_and_several_are_errors_that_say_what_to_do() {
        let none = socket(&Which::default(), root_with(&[]).path()).unwrap_err();
        assert!(none.to_string().contains("start towpath-controller"), "{none}");
        let several = socket(&Which::default(), root_with(&["host1", "host2"]).path()).unwrap_err();
        assert!(several.to_string().contains("--host host1 | --host host2"), "{several}");
        assert!(matches!(several, Failure::Usage(_)));
    }

    #[test]
    fn what_is_named_is_taken() {
        let root = root_with(&["host1", "host2"]);
        let named = Which { host: Some("host2".into()), ..Which::default() };
        assert_eq!(socket(&named, root.path()).unwrap(), root.path().join("host2").join(api::SOCKET_NAME));
        let named = Which { run_dir: Some("/x".into()), ..Which::default() };
        assert_eq!(socket(&named, root.path()).unwrap(), Path::new("/x/api.sock"));
    }
}
