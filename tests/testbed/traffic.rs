//! Traffic of others' making: nginx, curl, iperf3, ping.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::namespace::Namespace;
use super::process::{Process, finish, run};
use super::scope::Scope;
use super::until;

/// Bytes of the page that the web server has: a few segments.
pub const PAGE_BYTES: usize = 4_000;

/// A web server for both families, port 80, with one page under every name.
#[derive(Debug)]
pub struct WebServer {
    _process: Process,
    access_log: PathBuf,
    post_log: PathBuf,
}

impl WebServer {
    /// nginx in a namespace; ready when this returns.
    pub fn start(scope: &Scope, namespace: &Namespace) -> Self {
        let directory = scope.directory().join(format!("nginx-{}", namespace.name()));
        fs::create_dir(&directory).expect("nginx's directory");
        fs::write(directory.join("page"), vec![b'x'; PAGE_BYTES]).expect("the page");
        fs::write(directory.join("large"), vec![b'y'; POST_BYTES]).expect("the large page");
        let (configuration, access_log) = (directory.join("nginx.conf"), directory.join("access.log"));
        let post_log = directory.join("post.log");
        fs::write(&configuration, configure(&directory)).expect("nginx's configuration");
        let text = configuration.display().to_string();
        let command = namespace.command("nginx", &["-c", &text]);
        let mut process = Process::start("nginx", command, &scope.log(&format!("nginx-{}", namespace.name())));
        until("nginx listens", || {
            assert!(process.is_running(), "nginx has ended: {}", process.said());
            directory.join("nginx.pid").exists().then_some(())
        });
        Self { _process: process, access_log, post_log }
    }

    /// Whoever posted, and how many bytes each time, once there are `count` posts.
    pub fn posts(&self, count: usize) -> Vec<(String, usize)> {
        let lines = lines_of(&self.post_log, count);
        let read = |line: &String| {
            let (client, bytes) = line.split_once(' ').expect("an address and a length");
            (client.to_owned(), bytes.parse().expect("a length"))
        };
        lines.iter().map(read).collect()
    }

    /// The client addresses of every request so far, one line each, once there are `count` of them.
    pub fn clients(&self, count: usize) -> Vec<String> {
        lines_of(&self.access_log, count)
    }
}

/// A log's lines, once there are so many.
fn lines_of(log: &Path, count: usize) -> Vec<String> {
    until(&format!("{count} requests are logged"), || {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count).then_some(lines)
    })
}

/// What posts to `/large` send is read as a whole, since it goes to a second server; this one answers with the page of that name.
fn configure(directory: &Path) -> String {
    let directory = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {directory}/{kind}; "))
        .concat();
    format!(
        "daemon off; user root; worker_processes 1; pid {directory}/nginx.pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  log_format client '$remote_addr'; log_format post '$remote_addr $request_length'; {temporary}
  server {{
    listen 80; listen [::]:80 ipv6only=on; root {directory};
    location / {{ access_log {directory}/access.log client; try_files /page =404; }}
    location /large {{ access_log {directory}/post.log post; proxy_pass http://127.0.0.1:8080; }}
  }}
  server {{
    listen 127.0.0.1:8080; root {directory}; access_log off;
    location / {{ error_page 405 =200 /large; }}
  }}
}}"
    )
}

/// Bytes of a post, and of its answer.
pub const POST_BYTES: usize = 50_000;

/// One answered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The HTTP status; 0 if there was none.
    pub code: u16,
    /// The client's own address as it sees it.
    pub local: String,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

/// Requests that curl makes for the page, each on a connection of its own.
#[derive(Debug)]
pub struct Requests {
    processes: Vec<(std::process::Child, usize)>,
}

impl Requests {
    /// Starts one curl per server address, each for `count` requests one after the other.
    pub fn start(client: &Namespace, servers: &[&str], count: usize) -> Self {
        let spawn = |server: &&str| {
            let host = if server.contains(':') { format!("[{server}]") } else { (*server).to_owned() };
            let url = format!("http://{host}/[1-{count}]");
            let arguments = ["-s", "-o", "/dev/null", "-H", "Connection: close", "--max-time", "10"];
            let mut command = client.command("curl", &arguments);
            command.args(["-w", "%{http_code} %{local_ip} %{size_download}\\n", &url]);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
            (command.spawn().expect("curl"), count)
        };
        Self { processes: servers.iter().map(spawn).collect() }
    }

    /// Starts one curl per server address that posts [`POST_BYTES`] so many times a second and is answered with as many.
    pub fn post(scope: &Scope, client: &Namespace, servers: &[&str], per_second: u32, count: usize) -> Self {
        let body = scope.directory().join("body");
        fs::write(&body, vec![b'z'; POST_BYTES]).expect("the body");
        let spawn = |server: &&str| {
            let host = if server.contains(':') { format!("[{server}]") } else { (*server).to_owned() };
            let (url, rate) = (format!("http://{host}/large?[1-{count}]"), format!("{per_second}/s"));
            let data = format!("@{}", body.display());
            let arguments = ["-s", "-o", "/dev/null", "-H", "Connection: close", "-H", "Expect:", "--max-time", "10"];
            let mut command = client.command("curl", &arguments);
            command.args(["--rate", &rate, "--data-binary", &data]);
            command.args(["-w", "%{http_code} %{local_ip} %{size_download}\\n", &url]);
            command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
            (command.spawn().expect("curl"), count)
        };
        Self { processes: servers.iter().map(spawn).collect() }
    }

    /// True until the last one is answered.
    pub fn are_running(&mut self) -> bool {
        self.processes.iter_mut().any(|(process, _)| process.try_wait().is_ok_and(|status| status.is_none()))
    }

    /// Waits for all of them.
    pub fn finish(self) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        for (process, count) in self.processes {
            let output = process.wait_with_output().expect("curl's output");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let before = fetched.len();
            fetched.extend(text.lines().filter_map(read_fetched));
            assert_eq!(fetched.len() - before, count, "curl ended early: {}", output.status);
        }
        fetched
    }
}

fn read_fetched(line: &str) -> Option<Fetched> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [code, local, bytes] = words[..] else { return None };
    Some(Fetched { code: code.parse().ok()?, local: local.to_owned(), bytes: bytes.parse().ok()? })
}

/// Fails the test unless every request was answered in full, to a client that is known by these addresses.
pub fn assert_all_fetched(fetched: &[Fetched], clients: &[&str]) {
    assert_all_answered(fetched, PAGE_BYTES, clients);
}

/// The same for answers of so many bytes.
pub fn assert_all_answered(fetched: &[Fetched], bytes: usize, clients: &[&str]) {
    let failed: Vec<&Fetched> = fetched.iter().filter(|one| one.code != 200 || one.bytes != bytes).collect();
    assert!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), fetched.len());
    let seen: HashSet<&str> = fetched.iter().map(|one| one.local.as_str()).collect();
    assert_eq!(seen, clients.iter().copied().collect(), "the client's own addresses");
}

/// A page fetched once from each server address, or the test fails.
pub fn assert_web(client: &Namespace, servers: &[&str]) {
    let fetched = Requests::start(client, servers, 1).finish();
    assert!(fetched.iter().all(|one| one.code == 200), "{fetched:?}");
}

/// Seconds of an iperf3 interval.
const INTERVAL: &str = "0.5";

/// Bytes in flight at most: less than the devices' rings hold, so that a poller that waits for its turn on a shared core loses
/// nothing, and a stall would be Towpath's own.
const WINDOW: &str = "200K";

/// Runs iperf3 between two namespaces to its end; the bytes of each interval as the receiver counts them, since a sender's
/// buffer hides a stall.
pub fn iperf(scope: &Scope, ends: (&Namespace, &Namespace), server: &str, seconds: u32, reverse: bool) -> Vec<u64> {
    let log = scope.log(&format!("iperf3-{server}-{reverse}"));
    let command = ends.1.command("iperf3", &["-s", "-1", "-i", INTERVAL, "-J"]);
    let mut process = Process::start("iperf3", command, &log);
    until("iperf3 listens", || (!ends.1.run("ss", &["-Hltn", "sport", "=", ":5201"]).is_empty()).then_some(()));
    let seconds = seconds.to_string();
    let mut arguments = vec!["-c", server, "-t", &seconds, "-i", INTERVAL, "-w", WINDOW, "-J"];
    if reverse {
        arguments.push("-R");
    }
    let sender = run(ends.0.command("iperf3", &arguments), "");
    process.wait();
    read_intervals(&if reverse { sender } else { process.said() })
}

/// The bytes of each interval in iperf3's report.
fn read_intervals(report: &str) -> Vec<u64> {
    let report: Value = serde_json::from_str(report).unwrap_or_else(|error| panic!("iperf3: {error}: {report}"));
    let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("no intervals: {report}"));
    let whole = intervals.iter().map(|interval| &interval["sum"]).filter(|sum| sum["seconds"].as_f64() > Some(0.4));
    whole.map(|sum| sum["bytes"].as_f64().expect("bytes") as u64).collect()
}

/// Fails the test if the stream stood still in an interval.
pub fn assert_no_stall(what: &str, intervals: &[u64]) {
    assert!(
        intervals.len() >= 4 && intervals.iter().all(|&bytes| bytes > 0),
        "{what}: bytes per interval: {intervals:?}"
    );
}

/// Sends echo requests of this size; how many were answered.
pub fn ping(client: &Namespace, server: &str, count: u32, bytes: u32) -> u32 {
    let (count, bytes) = (count.to_string(), bytes.to_string());
    let arguments = ["-n", "-c", &count, "-i", "0.05", "-W", "5", "-s", &bytes, server];
    let output = finish(client.command("ping", &arguments), "");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let summary = text.lines().find(|line| line.contains(" received")).unwrap_or_else(|| panic!("no summary: {text}"));
    let received = summary.split(',').find_map(|part| part.trim().strip_suffix(" received"));
    received.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no count: {summary}"))
}

/// Fails the test unless every echo request is answered.
pub fn assert_ping(client: &Namespace, server: &str, bytes: u32) {
    assert_eq!(ping(client, server, 3, bytes), 3, "answers to pings of {bytes} bytes to {server}");
}
