"""The systems that are compared: how each is started on the same devices, measured and ended.

Every system forwards from a net_pcap device that replays a file from memory to another net_pcap device that drops what it is sent,
on one CPU. Each measurement is a fresh process, which takes the hugepages with it when it ends.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

VSWITCHD = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
RUNTIME_DIRECTORIES = pathlib.Path("/run/dpdk")
PATIENCE_S = 60
DSCP = 1
PEER_MAC = "02:00:00:00:00:02"


class Failed(Exception):
    """A system that could not be measured, with what it said."""


def run(*words, stdin=None, env=None, timeout=PATIENCE_S):
    """Runs a command to its end and returns what it wrote."""
    words = [str(word) for word in words]
    command = " ".join(words)[:200]
    try:
        done = subprocess.run(words, input=stdin, env=env, timeout=timeout, text=True, capture_output=True, check=False)
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"{command}: it did not end within {timeout} s") from expired
    if done.returncode != 0:
        raise Failed(f"{command}: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout


@contextlib.contextmanager
def runtime_directory(prefix):
    """DPDK makes a folder of this name for each process, and leaves it there when that ends."""
    try:
        yield
    finally:
        shutil.rmtree(RUNTIME_DIRECTORIES / prefix, ignore_errors=True)


@contextlib.contextmanager
def child(*words, log, env=None, **streams):
    """A process that is ended, at the latest, when the block is left."""
    with open(log, "ab") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **streams}
        process = subprocess.Popen([str(word) for word in words], env=env, **streams)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)


class Setting:
    """What all measurements have in common."""

    def __init__(self, options, directory):
        self.towpath = options.towpath
        self.cpu, self.control_cpu = options.cpu, options.control_cpu
        self.duration_s, self.warm_up_s = options.duration, options.warm_up
        self.hugepages = not options.no_hugepages
        self.directory = pathlib.Path(directory)
        self.neighbors = self.directory / "neighbors.pcap"

    def pcap(self, flows):
        path = self.directory / f"{flows}.pcap"
        if not path.exists():
            run(self.towpath, "bench", "packets", "--flows", flows, "--write", path, "--neighbors", self.neighbors)
        return path

    def devices(self, flows):
        return [f"net_pcap0,rx_pcap={self.pcap(flows)},infinite_rx=1", f"net_pcap1,rx_pcap={self.neighbors}"]

    @staticmethod
    def memory_mib(flows):
        """What a forwarder needs: net_pcap keeps each packet in an mbuf, and they are 2,560 bytes with everything around them."""
        return max(1_024, flows * 2_560 // (1 << 20) + 256)

    @staticmethod
    def prefix(name):
        return f"towpath-peer-{name}-{os.getpid()}"

    def eal(self, name):
        memory = ["--in-memory"] if self.hugepages else ["--no-huge"]
        return ["--no-pci", *memory, "--no-telemetry", f"--file-prefix={self.prefix(name)}"]


class Towpath:
    """One trial of `towpath bench`."""

    def __init__(self, setting, work):
        self.setting, self.work = setting, work

    def measure(self, flows):
        setting = self.setting
        spec = {
            "work": self.work,
            "traffic": {
                "flows": flows,
                "order": "uniform",
                "size": {"fixed": 60},
                "strangers_percent": 0,
                "seed": 1,
            },
            "source": "pcap",
            "pcap": str(setting.pcap(flows)),
            "neighbors": str(setting.neighbors),
            "cpu": setting.cpu,
            "control_cpu": setting.control_cpu,
            "hugepages": setting.hugepages,
            "warm_up_ms": int(setting.warm_up_s * 1000),
            "duration_ms": int(setting.duration_s * 1000),
        }
        result = json.loads(run(setting.towpath, "bench", "trial", stdin=json.dumps(spec)))
        return {"mpps": result["mpps"], "cycles": result["cycles_per_packet"]}


class Testpmd:
    """DPDK's own forwarder."""

    def __init__(self, setting, mode):
        self.setting, self.mode = setting, mode

    def measure(self, flows):
        setting = self.setting
        words = ["dpdk-testpmd", "--lcores", f"0@{setting.control_cpu},1@{setting.cpu}", "--main-lcore", "0"]
        words += setting.eal("testpmd") + ["-m", setting.memory_mib(flows)]
        words += [f"--vdev={device}" for device in setting.devices(flows)]
        words += ["--", "-i", f"--forward-mode={self.mode}", "--nb-cores=1", f"--total-num-mbufs={flows + 16383}"]
        words += ["--mbuf-size=2176", "--burst=32"]
        log = setting.directory / "testpmd.log"
        log.unlink(missing_ok=True)
        with (
            runtime_directory(setting.prefix("testpmd")),
            child(*words, log=log, stdin=subprocess.PIPE) as process,
        ):
            say = lambda line: (process.stdin.write(line.encode() + b"\n"), process.stdin.flush())
            wait_for(lambda: "testpmd>" in log.read_text(errors="replace"), process, log)
            say("start")
            time.sleep(setting.warm_up_s)
            say("show port stats all")
            time.sleep(setting.duration_s)
            say("show port stats all")
            say("stop")
            say("quit")  # what it printed comes out only now
            process.wait(PATIENCE_S)
        rates = self.rates(log)
        if len(rates) != 4:
            raise Failed(f"{log.name}: {log.read_text(errors='replace').strip()[-800:]}")
        return {"mpps": rates[3] / 1e6}

    @staticmethod
    def rates(log):
        """Packets per second that each port sent since it was asked before."""
        return [int(rate) for rate in re.findall(r"Tx-pps:\s+(\d+)", log.read_text(errors="replace"))]


def wait_for(condition, process, log):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{log.name}: {log.read_text(errors='replace').strip()[-800:]}")
        time.sleep(0.02)


class OpenVswitch:
    """Open vSwitch's userspace datapath, with a database, daemons and a network namespace of its own."""

    def __init__(self, setting, name="exact"):
        self.setting, self.name = setting, name
        self.directory = setting.directory / f"ovs-{name}"
        self.namespace = f"towpath-peers-{os.getpid()}"
        self.env = {
            **os.environ,
            **{f"OVS_{kind}": str(self.directory) for kind in ("RUNDIR", "DBDIR", "LOGDIR", "SYSCONFDIR")},
        }

    def inside(self, *words, **options):
        """A command in the switch's network namespace."""
        return run("ip", "netns", "exec", self.namespace, *words, env=self.env, **options)

    def vsctl(self, *words):
        return self.inside("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", "--timeout=60", *words)

    def appctl(self, *words):
        return self.inside("ovs-appctl", "-t", self.directory / "vswitchd.ctl", *words)

    def set_bridge(self, bridge, *rules):
        self.inside("ovs-ofctl", "-O", "OpenFlow13", "del-flows", self.socket(bridge))
        self.inside("ovs-ofctl", "-O", "OpenFlow13", "add-flows", self.socket(bridge), "-", stdin="\n".join(rules) + "\n", timeout=600)

    def socket(self, bridge):
        return f"unix:{self.directory}/{bridge}.mgmt"

    @contextlib.contextmanager
    def running(self, dpdk_mib=None):
        """The daemons, with so much memory for DPDK or without DPDK."""
        run("rm", "-rf", self.directory)
        self.directory.mkdir()
        run("ip", "netns", "add", self.namespace)
        try:
            run("ip", "-n", self.namespace, "link", "set", "lo", "up")
            run("ovsdb-tool", "create", self.directory / "conf.db", SCHEMA)
            with self.database(), runtime_directory(self.setting.prefix("ovs")), self.switch(dpdk_mib):
                yield
        finally:
            run("ip", "netns", "del", self.namespace)

    @contextlib.contextmanager
    def database(self):
        log = self.directory / "ovsdb.log"
        words = ["ovsdb-server", self.directory / "conf.db", f"--remote=punix:{self.directory}/db.sock"]
        words += [f"--unixctl={self.directory}/ovsdb.ctl", f"--pidfile={self.directory}/ovsdb.pid"]
        with child("ip", "netns", "exec", self.namespace, *words, log=log, env=self.env) as process:
            wait_for((self.directory / "db.sock").exists, process, log)
            yield

    @contextlib.contextmanager
    def switch(self, dpdk_mib):
        setting = self.setting
        self.vsctl("--no-wait", "init")
        config = ["other_config:flow-limit=1000000", "other_config:max-idle=600000"]
        if dpdk_mib:
            extra = " ".join(setting.eal("ovs"))
            config += [
                "other_config:dpdk-init=true",
                f'other_config:dpdk-extra="{extra}"',
                f"other_config:dpdk-lcore-mask={1 << setting.control_cpu:#x}",
                f"other_config:dpdk-alloc-mem={dpdk_mib}",
            ]
        config += [f"other_config:pmd-cpu-mask={1 << setting.cpu:#x}"]
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", *config)
        log = self.directory / "vswitchd.log"
        program = VSWITCHD if dpdk_mib else "ovs-vswitchd"
        words = [program, f"unix:{self.directory}/db.sock", f"--unixctl={self.directory}/vswitchd.ctl"]
        words += [f"--pidfile={self.directory}/vswitchd.pid", "-vconsole:info", "-vsyslog:off"]
        with child("ip", "netns", "exec", self.namespace, *words, log=log, env=self.env) as process:
            wait_for((self.directory / "vswitchd.ctl").exists, process, log)
            try:
                yield
            except Failed as failure:
                raise Failed(f"{failure}\n{log.read_text(errors='replace')[-1500:]}") from failure

    def bridge(self, name, ports):
        self.vsctl("--may-exist", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev", "fail-mode=secure")
        for number, (port, options) in enumerate(ports, 1):
            interface = ["--", "set", "interface", port, f"ofport_request={number}", *options]
            self.vsctl("add-port", name, port, *interface)
            error = self.vsctl("get", "interface", port, "error").strip()
            if error not in ("[]", ""):
                raise Failed(f"port {port}: {error}")


class ExactOverDpdk:
    """Exact five-tuple rules that set the DSCP, and VXLAN if it is asked for."""

    def __init__(self, setting, vxlan):
        self.setting, self.vxlan = setting, vxlan
        self.switch = OpenVswitch(setting, "vxlan" if vxlan else "exact")

    def measure(self, flows):
        switch = self.switch
        with switch.running(dpdk_mib=self.setting.memory_mib(flows)):
            left, right = (["type=dpdk", f'options:dpdk-devargs="{device}"'] for device in self.setting.devices(flows))
            if self.vxlan:
                self.underlay(right)
                tunnel = ["type=vxlan", "options:remote_ip=192.0.2.2", "options:key=100"]
                # The rules first: a switch without them would drop at full load meanwhile, which is harmless but slow.
                switch.bridge("br0", [("vx", tunnel)])
                switch.set_bridge("br0", *self.rules(flows, came_by=2, leaves_by=1))
                self.add(left, 2)
            else:
                switch.bridge("br0", [("right", right)])
                switch.set_bridge("br0", *self.rules(flows, came_by=2, leaves_by=1))
                self.add(left, 2)
            self.settle()
            return self.rate()

    def add(self, options, number):
        self.switch.vsctl(
            "add-port", "br0", "left", "--", "set", "interface", "left", f"ofport_request={number}", *options
        )
        error = self.switch.vsctl("get", "interface", "left", "error").strip()
        if error not in ("[]", ""):
            raise Failed(f"port left: {error}")

    def underlay(self, right):
        switch = self.switch
        switch.bridge("br-phy", [("right", right)])
        switch.set_bridge("br-phy", "in_port=LOCAL,actions=output:1")
        switch.inside("ip", "addr", "add", "192.0.2.1/24", "dev", "br-phy")
        switch.inside("ip", "link", "set", "br-phy", "up")
        switch.appctl("tnl/neigh/set", "br-phy", "192.0.2.2", PEER_MAC)

    def rules(self, flows, came_by, leaves_by):
        for flow in range(flows):
            address = (10 << 24 | 1 << 16 | 1 << 8) + flow // 64
            source = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
            yield (
                f"priority=100,udp,in_port={came_by},nw_src={source},nw_dst=10.2.0.2,"
                f"tp_src={1024 + 1000 * (flow % 64)},tp_dst=9000,actions=mod_nw_tos:{DSCP << 2},output:{leaves_by}"
            )

    def settle(self):
        """Waits until the datapath asks the slow path about no packet any more."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            self.switch.appctl("dpif-netdev/pmd-stats-clear")
            time.sleep(0.5)
            if self.upcalls() == 0 and self.sent() > 0:
                break
            if time.monotonic() > deadline:
                raise Failed("Open vSwitch still asks its slow path after a minute")
        time.sleep(self.setting.warm_up_s)

    def upcalls(self):
        text = self.switch.appctl("dpif-netdev/pmd-stats-show", "-pmd", self.setting.cpu)
        counts = re.findall(r"miss with (?:success|failed) upcall: (\d+)", text)
        return sum(int(count) for count in counts)

    def sent(self):
        """Packets that the right port has sent."""
        text = self.switch.appctl("dpctl/show", "-s", "netdev@ovs-netdev")
        block = text.split(": right ", 1)[1] if ": right " in text else ""
        found = re.search(r"TX packets:(\d+)", block)
        return int(found.group(1)) if found else 0

    def rate(self):
        self.switch.appctl("dpif-netdev/pmd-stats-clear")
        before, from_s = self.sent(), time.monotonic()
        time.sleep(self.setting.duration_s)
        after, to_s = self.sent(), time.monotonic()
        text = self.switch.appctl("dpif-netdev/pmd-stats-show", "-pmd", self.setting.cpu)
        cycles = re.search(r"avg processing cycles per packet: ([\d.]+)", text)
        return {"mpps": (after - before) / (to_s - from_s) / 1e6, "cycles": float(cycles.group(1)) if cycles else None}


class ReactiveFlows:
    """Flow setup by Open vSwitch and an OpenFlow controller: a client's and a server's namespace, joined by the switch."""

    def __init__(self, setting, python):
        self.setting, self.python = setting, python
        self.switch = OpenVswitch(setting, "reactive")

    def measure(self, rates, duration_s, search):
        """The report of `towpath bench flow-setup` through the switch."""
        switch, port = self.switch, 6653
        with switch.running(), contextlib.ExitStack() as stack:
            ends = [stack.enter_context(self.end(name, address)) for name, address in (("c", "10.9.0.1"), ("s", "10.9.0.2"))]
            switch.bridge("br0", [(f"to-{name}", []) for name in ("c", "s")])
            controller = [self.python, pathlib.Path(__file__).with_name("reactive.py"), port]
            log = switch.directory / "controller.log"
            stack.enter_context(child("ip", "netns", "exec", switch.namespace, *controller, log=log, env=switch.env))
            switch.vsctl("set", "bridge", "br0", "protocols=OpenFlow13")
            switch.vsctl("set-controller", "br0", f"tcp:127.0.0.1:{port}")
            connected = lambda: "true" in switch.vsctl("get", "controller", "br0", "is_connected")
            deadline = time.monotonic() + PATIENCE_S
            while not connected():
                if time.monotonic() > deadline:
                    raise Failed(f"the controller does not connect: {log.read_text()[-500:]}")
                time.sleep(0.1)
            echo = [self.setting.towpath, "bench", "echo", "--listen", "10.9.0.2:7000", "--ports", 8]
            stack.enter_context(child("ip", "netns", "exec", ends[1], *echo, log=switch.directory / "echo.log"))
            time.sleep(1)
            report = switch.directory / "flow-setup.json"
            words = ["bench", "flow-setup", "--target", "10.9.0.2:7000", "--ports", 8, "--duration", duration_s]
            words += ["--rates", ",".join(str(rate) for rate in rates), "--json", report, *([] if search else ["--no-search"])]
            run("ip", "netns", "exec", ends[0], self.setting.towpath, *words, timeout=900)
            return json.loads(report.read_text())

    @contextlib.contextmanager
    def end(self, name, address):
        """A namespace with one interface whose other end is in the switch's."""
        namespace = f"{self.switch.namespace}-{name}"
        run("ip", "netns", "add", namespace)
        try:
            run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", f"to-{name}")
            run("ip", "-n", namespace, "link", "set", f"to-{name}", "netns", self.switch.namespace)
            run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", namespace, "link", "set", "eth0", "up")
            run("ip", "-n", self.switch.namespace, "link", "set", f"to-{name}", "up")
            run("ip", "netns", "exec", namespace, "ethtool", "-K", "eth0", "tx", "off")
            yield namespace
        finally:
            run("ip", "netns", "del", namespace)
