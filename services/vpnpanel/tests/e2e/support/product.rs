//! The product's own binaries, started as an operator starts them: everything in one process, or
//! one process for each service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vpnpanel_node_agent::testing::{Namespace, Topology, eventually};

use super::Panel;
use super::process::{Output, Process};
use super::rest::Rest;

/// How long a start may take on a machine that does other things as well.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(30);
/// The one-time password that tests give the first start.
const ONE_TIME_PASSWORD: &str = "one-time password of a test";

/// A process of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Role {
    /// Argument of `vpnpanel`.
    pub(crate) name: &'static str,
    /// Port of its `/health`.
    admin_port: u16,
    /// Where it listens: setting and port.
    listens: &'static [(&'static str, u16)],
    /// 0 listens on the standard ports, a replica so many thousands above them.
    replica: u16,
}

impl Role {
    const fn replica(self, replica: u16) -> Self {
        Self { replica, ..self }
    }

    /// What to call it.
    pub(crate) fn label(&self) -> String {
        match self.replica {
            0 => self.name.to_owned(),
            replica => format!("{}-{replica}", self.name),
        }
    }

    fn port(&self, standard: u16) -> u16 {
        standard + self.replica * 1_000
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let admin = match self.name {
            "control-api" => "VPNPANEL_CONTROL_API_ADMIN_LISTEN",
            "collector" => "VPNPANEL_COLLECTOR_ADMIN_LISTEN",
            _ => "VPNPANEL_SCHEDULER_ADMIN_LISTEN",
        };
        let own = self.listens.iter().copied();
        let all = own.chain(std::iter::once((admin, self.admin_port)));
        all.filter(|_| self.replica > 0)
            .map(|(name, port)| (name, format!("127.0.0.1:{}", self.port(port))))
            .collect()
    }
}

/// Everything in one process.
pub(crate) const ALL_IN_ONE: &[Role] = &[Role {
    name: "up",
    admin_port: 9101,
    listens: &[],
    replica: 0,
}];

const CONTROL_API: Role = Role {
    name: "control-api",
    admin_port: 9101,
    listens: &[
        ("VPNPANEL_CONTROL_API_LISTEN", 50_051),
        ("VPNPANEL_CONTROL_API_SERVICES_LISTEN", 50_055),
    ],
    replica: 0,
};
const COLLECTOR: Role = Role {
    name: "collector",
    admin_port: 9102,
    listens: &[
        ("VPNPANEL_COLLECTOR_LISTEN", 50_052),
        ("VPNPANEL_COLLECTOR_ENROLMENT_LISTEN", 50_053),
    ],
    replica: 0,
};
const SCHEDULER: Role = Role {
    name: "scheduler",
    admin_port: 9103,
    listens: &[("VPNPANEL_SCHEDULER_LISTEN", 50_054)],
    replica: 0,
};
const GATEWAY: Role = Role {
    name: "gateway",
    admin_port: 9104,
    listens: &[],
    replica: 0,
};

/// One process for each service.
pub(crate) const FLEET: &[Role] = &[CONTROL_API, COLLECTOR, SCHEDULER, GATEWAY];

/// Two replicas of each service, beside each other, and the gateway. Who calls the standard ports
/// reaches either by a [`super::Balancer`].
pub(crate) const REPLICATED: &[Role] = &[
    CONTROL_API.replica(1),
    CONTROL_API.replica(2),
    COLLECTOR.replica(1),
    COLLECTOR.replica(2),
    SCHEDULER.replica(1),
    SCHEDULER.replica(2),
    GATEWAY,
];

/// The embedded database, with its log.
const DATABASE: [&str; 3] = ["vpnpanel.db", "vpnpanel.db-wal", "vpnpanel.db-shm"];

fn copy_database(from: &Path, to: &Path) {
    for name in DATABASE {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).expect("copied");
        }
    }
}

/// A control plane that runs on a host.
pub(crate) struct ControlPlane<'a> {
    host: &'a Namespace,
    data: tempfile::TempDir,
    settings: Vec<(String, String)>,
    processes: Vec<(Role, Output, Option<Process>)>,
}

impl<'a> ControlPlane<'a> {
    /// Starts it for the first time, on an empty data folder, with a one-time password of the
    /// tests' choice.
    pub(crate) fn start(host: &'a Namespace, roles: &[Role], settings: &[(&str, &str)]) -> Self {
        let password = [("VPNPANEL_BOOTSTRAP_PASSWORD", ONE_TIME_PASSWORD)];
        Self::first_start(host, roles, &[&password, settings].concat())
    }

    /// The same on a host of its own, to which agents connect; no node runs beside it.
    pub(crate) fn remote(host: &'a Namespace, roles: &[Role], settings: &[(&str, &str)]) -> Self {
        let address = Topology::CONTROL_ADDRESS;
        let (link, enrolment) = (format!("{address}:50052"), format!("{address}:50053"));
        let (link_url, enrolment_url) = (format!("https://{link}"), format!("https://{enrolment}"));
        let remote = [
            ("VPNPANEL_LOCAL_NODE", "false"),
            ("VPNPANEL_COLLECTOR_LISTEN", link.as_str()),
            ("VPNPANEL_COLLECTOR_ENROLMENT_LISTEN", &enrolment),
            ("VPNPANEL_COLLECTOR_LINK_ENDPOINT", &link_url),
            ("VPNPANEL_ENROLLMENT_URL", &enrolment_url),
        ];
        Self::start(host, roles, &[&remote, settings].concat())
    }

    /// Starts it for the first time, on an empty data folder, with nothing but these settings.
    pub(crate) fn first_start(
        host: &'a Namespace,
        roles: &[Role],
        settings: &[(&str, &str)],
    ) -> Self {
        let mut control = Self {
            host,
            data: tempfile::tempdir().expect("a temporary folder"),
            settings: settings
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            processes: roles
                .iter()
                .map(|role| (*role, Output::of(&role.label()), None))
                .collect(),
        };
        control.start_all();
        control
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Signs in for the first time.
    pub(crate) fn first_panel(&self) -> Panel<'a> {
        Panel::first_sign_in(self.host, "127.0.0.1:8080", ONE_TIME_PASSWORD)
    }

    /// The one-time password that the first start printed.
    pub(crate) fn printed_password(&self) -> String {
        let mut password = None;
        eventually("the one-time password is printed", START, || {
            password = self.output().iter().find_map(|line| {
                let (_, rest) = line.split_once("one-time password")?;
                rest.split_whitespace().last().map(str::to_owned)
            });
            password.is_some()
        });
        password.expect("printed")
    }

    /// Starts what does not run and waits until it is ready.
    pub(crate) fn start_all(&mut self) {
        self.start_some(|_| true);
    }

    fn start_some(&mut self, chosen: impl Fn(&Role) -> bool) {
        let chosen = |(role, ..): &&mut (Role, Output, Option<Process>)| chosen(role);
        for (role, output, process) in self.processes.iter_mut().filter(chosen) {
            if !process.as_mut().is_some_and(Process::runs) {
                let mut command = self.host.command(env!("CARGO_BIN_EXE_vpnpanel"));
                command
                    .arg(role.name)
                    .env("VPNPANEL_DATA_DIR", self.data.path())
                    .env("VPNPANEL_ARGON2_MEMORY", "8MiB")
                    // Every request would be noise: tests ask often.
                    .env(
                        "VPNPANEL_LOG",
                        "info,vpnpanel_gateway::observe=warn,vpnpanel_runtime::rpc=warn",
                    )
                    .envs(self.settings.iter().map(|(key, value)| (key, value)))
                    .envs(role.settings())
                    .current_dir(self.data.path());
                *process = Some(Process::start(output, &mut command));
            }
        }
        for (role, output, process) in self.processes.iter_mut().filter(chosen) {
            let process = process.as_mut().expect("started");
            let health = Rest::new(
                self.host,
                &format!("127.0.0.1:{}", role.port(role.admin_port)),
            );
            eventually(&format!("{} is ready", role.label()), START, || {
                assert!(
                    process.runs(),
                    "{} ended: {:#?}",
                    role.label(),
                    output.lines()
                );
                health
                    .call(hyper::Method::GET, "/health", None)
                    .is_ok_and(|answer| answer.status == 200)
            });
        }
    }

    /// Kills every process of it at once.
    pub(crate) fn kill9(&mut self) {
        for (_, _, process) in &mut self.processes {
            process.take().into_iter().for_each(Process::kill9);
        }
    }

    /// Starts one process that does not run, and waits until it is ready.
    pub(crate) fn start_role(&mut self, label: &str) {
        self.start_some(|role| role.label() == label);
    }

    /// Kills one process.
    pub(crate) fn kill9_role(&mut self, label: &str) {
        self.take(label).into_iter().for_each(Process::kill9);
    }

    /// Stops one process in good order.
    pub(crate) fn stop_role(&mut self, label: &str) {
        if let Some(process) = self.take(label) {
            let status = process.stop(STOP);
            assert!(status.success(), "{label}: {status}");
        }
    }

    fn take(&mut self, label: &str) -> Option<Process> {
        let found = self
            .processes
            .iter_mut()
            .find(|(role, ..)| role.label() == label);
        found.unwrap_or_else(|| panic!("no {label}")).2.take()
    }

    /// Stops every process of it in good order.
    pub(crate) fn stop(&mut self) {
        for (role, _, process) in &mut self.processes {
            if let Some(process) = process.take() {
                let status = process.stop(STOP);
                assert!(status.success(), "{}: {status}", role.name);
            }
        }
    }

    /// A copy of the embedded database; nothing runs meanwhile.
    pub(crate) fn back_up(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder");
        copy_database(self.data.path(), copy.path());
        copy
    }

    /// Puts a copy of the embedded database back; nothing runs meanwhile.
    pub(crate) fn put_back(&self, copy: &tempfile::TempDir) {
        for name in DATABASE {
            let path = self.data.path().join(name);
            if path.exists() {
                std::fs::remove_file(path).expect("removed");
            }
        }
        copy_database(copy.path(), self.data.path());
    }

    /// Where what one process prints is kept.
    pub(crate) fn output_of(&self, name: &str) -> Output {
        let found = self.processes.iter().find(|(role, ..)| role.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).1.clone()
    }

    /// Lines that its processes printed last.
    pub(crate) fn output(&self) -> Vec<String> {
        self.processes
            .iter()
            .flat_map(|(_, output, _)| output.lines())
            .collect()
    }
}

impl Drop for ControlPlane<'_> {
    fn drop(&mut self) {
        for (_, output, _) in &self.processes {
            output.show_if_panicking();
        }
    }
}

/// The agent's program, built beside the product's.
pub(crate) fn agent_binary() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_vpnpanel")).with_file_name("vpnpanel-agent");
    assert!(
        path.exists(),
        "{} is not built: cargo build --workspace",
        path.display()
    );
    path
}
