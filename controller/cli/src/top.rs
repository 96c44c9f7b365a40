//! `towpath top`: live rates, from the difference of two snapshots of all counters.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use controller::api::{CounterKind, CounterRow, CountersSnapshot, Request, Response};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::{cursor, execute, terminal};

use crate::Failure;
use crate::arguments::{TopOptions, Which};
use crate::connection;
use crate::tables::table;

/// Shows rates until told to stop, or as often as asked for.
pub fn run(which: &Which, options: &TopOptions) -> Result<(), Failure> {
    if !(0.1..=3_600.0).contains(&options.interval) {
        return Err(Failure::Usage("--interval must be 0.1 to 3600 seconds".to_owned()));
    }
    let interval = Duration::from_secs_f64(options.interval);
    let count = if options.once { Some(1) } else { options.count };
    let mut before = counters(which)?;
    if count.is_some() || !io::stdout().is_terminal() {
        for _ in 0..count.unwrap_or(u32::MAX) {
            std::thread::sleep(interval);
            let after = counters(which)?;
            writeln!(io::stdout(), "{}", screen(&before, &after))?;
            before = after;
        }
        return Ok(());
    }
    let _screen = Screen::open()?;
    while !quit_within(interval)? {
        let after = counters(which)?;
        let text = screen(&before, &after).replace('\n', "\r\n");
        execute!(io::stdout(), terminal::Clear(terminal::ClearType::All), cursor::MoveTo(0, 0))?;
        write!(io::stdout(), "{text}")?;
        io::stdout().flush()?;
        before = after;
    }
    Ok(())
}

fn counters(which: &Which) -> Result<CountersSnapshot, Failure> {
    match connection::ask(which, &Request::Counters)? {
        Response::Counters(counters) => Ok(counters),
        other => Err(crate::apply::connection_mixed(&other)),
    }
}

/// The terminal while it is ours; given back however we end.
struct Screen;

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nothing more can be done if the terminal is gone.
        let _ = execute!(io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

/// Waits for the interval, or until q, Esc or Ctrl-C is pressed.
fn quit_within(interval: Duration) -> io::Result<bool> {
    if !event::poll(interval)? {
        return Ok(false);
    }
    Ok(match event::read()? {
        Event::Key(KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. }) => true,
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. }) => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    })
}

/// One thing's counters, now and before.
struct Moved<'a> {
    now: &'a CounterRow,
    before: Option<&'a CounterRow>,
    seconds: f64,
}

impl Moved<'_> {
    /// How much a counter grew per second.
    fn rate(&self, counter: &str) -> f64 {
        let value = |row: &CounterRow| row.values.get(counter).copied().unwrap_or(0);
        value(self.now).saturating_sub(self.before.map_or(0, value)) as f64 / self.seconds.max(1e-9)
    }

    fn rates<const N: usize>(&self, counters: [&str; N]) -> [f64; N] {
        counters.map(|counter| self.rate(counter))
    }

    fn gauge(&self, counter: &str) -> String {
        self.now.values.get(counter).copied().unwrap_or(0).to_string()
    }
}

fn moved<'a>(before: &'a CountersSnapshot, after: &'a CountersSnapshot, kind: CounterKind) -> Vec<Moved<'a>> {
    let seconds = after.taken_ns.saturating_sub(before.taken_ns) as f64 / 1e9;
    let earlier: BTreeMap<&str, &CounterRow> =
        before.rows.iter().filter(|row| row.kind == kind).map(|row| (row.name.as_str(), row)).collect();
    let rows = after.rows.iter().filter(|row| row.kind == kind);
    rows.map(|now| Moved { now, before: earlier.get(now.name.as_str()).copied(), seconds }).collect()
}

/// Everything that moved between two snapshots.
fn screen(before: &CountersSnapshot, after: &CountersSnapshot) -> String {
    if before.dataplane_pid != after.dataplane_pid {
        return format!("{}: the dataplane was started anew; rates follow\n", after.host);
    }
    let seconds = after.taken_ns.saturating_sub(before.taken_ns) as f64 / 1e9;
    let parts = [ports(before, after), vports(before, after), lcores(before, after), drops(before, after)];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}, over {seconds:.1} s\n\n{}", after.host, parts.join("\n"))
}

fn ports(before: &CountersSnapshot, after: &CountersSnapshot) -> Option<String> {
    let row = |port: &Moved<'_>| {
        let [rx, tx, missed] = port.rates(["rx_packets", "tx_packets", "rx_missed"]);
        let [rx_bytes, tx_bytes] = port.rates(["rx_bytes", "tx_bytes"]);
        vec![port.now.name.clone(), count(rx), bits(rx_bytes), count(tx), bits(tx_bytes), count(missed)]
    };
    let rows = moved(before, after, CounterKind::Port);
    Some(table(&["port", "rx/s", "rx bit/s", "tx/s", "tx bit/s", "missed/s"], &[1, 2, 3, 4, 5], rows.iter().map(row)))
}

fn vports(before: &CountersSnapshot, after: &CountersSnapshot) -> Option<String> {
    let row = |vport: &Moved<'_>| {
        let [into, out, in_bytes, out_bytes] = vport.rates(["in_packets", "out_packets", "in_bytes", "out_bytes"]);
        vec![vport.now.name.clone(), count(into), bits(in_bytes), count(out), bits(out_bytes)]
    };
    let rows = moved(before, after, CounterKind::Vport);
    Some(table(&["vport", "in/s", "in bit/s", "out/s", "out bit/s"], &[1, 2, 3, 4], rows.iter().map(row)))
}

fn lcores(before: &CountersSnapshot, after: &CountersSnapshot) -> Option<String> {
    let row = |lcore: &Moved<'_>| {
        let useful = 100.0 * lcore.rate("busy_cycles") / lcore.rate("total_cycles").max(1.0);
        let [misses, learned, expired] = lcore.rates(["flow_misses", "flows_learned", "flows_expired"]);
        let (flows, parked) = (lcore.gauge("flows"), lcore.gauge("parked"));
        let name = lcore.now.name.clone();
        vec![name, format!("{useful:.1} %"), count(misses), count(learned), count(expired), flows, parked]
    };
    let headings = ["lcore", "useful", "misses/s", "learned/s", "expired/s", "flows", "parked"];
    let rows = moved(before, after, CounterKind::Lcore);
    Some(table(&headings, &[1, 2, 3, 4, 5, 6], rows.iter().map(row)))
}

/// The reasons for which packets end now; none if no packet does.
fn drops(before: &CountersSnapshot, after: &CountersSnapshot) -> Option<String> {
    let host = moved(before, after, CounterKind::Drops);
    let reasons = host.iter().flat_map(|host| host.now.values.keys().map(|reason| (reason, host.rate(reason))));
    let rows: Vec<_> =
        reasons.filter(|(_, rate)| *rate > 0.0).map(|(reason, rate)| vec![reason.clone(), count(rate)]).collect();
    (!rows.is_empty()).then(|| table(&["ended", "/s"], &[1], rows))
}

fn count(rate: f64) -> String {
    scaled(rate, "")
}

fn bits(bytes: f64) -> String {
    scaled(bytes * 8.0, " ")
}

fn scaled(value: f64, gap: &str) -> String {
    match value {
        value if value >= 1e9 => format!("{:.2}{gap}G", value / 1e9),
        value if value >= 1e6 => format!("{:.2}{gap}M", value / 1e6),
        value if value >= 1e4 => format!("{:.1}{gap}k", value / 1e3),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(pid: u32, taken_s: u64, packets: u64) -> CountersSnapshot {
        let row = |kind, name: &str, values: &[(&str, u64)]| CounterRow {
            kind,
            name: name.to_owned(),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        CountersSnapshot {
            host: "host1".into(),
            taken_ns: taken_s * 1_000_000_000,
            dataplane_pid: pid,
            rows: vec![
                row(CounterKind::Port, "left", &[("rx_packets", packets), ("rx_bytes", packets * 100)]),
                row(CounterKind::Lcore, "io", &[("busy_cycles", packets), ("total_cycles", packets * 4), ("flows", 9)]),
                row(CounterKind::Drops, "host1", &[("no-chain", packets / 10), ("truncated", 3)]),
            ],
        }
    }

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let shown = screen(&snapshot(1, 10, 1_000), &snapshot(1, 12, 5_000));
        assert!(shown.contains("over 2.0 s"), "{shown}");
        let port: Vec<&str> = shown.lines().find(|line| line.starts_with("left")).unwrap().split_whitespace().collect();
        assert_eq!(port, ["left", "2000", "1.60", "M", "0", "0", "0"]);
        assert!(shown.contains("25.0 %"), "{shown}");
        assert!(shown.contains("no-chain"), "{shown}");
        assert!(!shown.contains("truncated"), "what did not move is not shown: {shown}");
    }

    #[test]
    fn a_restart_gives_no_rates() {
        assert!(screen(&snapshot(1, 10, 5_000), &snapshot(2, 11, 10)).contains("started anew"));
    }
}
