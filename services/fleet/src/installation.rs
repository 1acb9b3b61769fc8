//! The control plane under test: this program itself, everything in one process, on an empty folder,
//! with one-time secrets and free ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;
use vpnpanel_runtime::settings::{HttpEndpoint, Secret};

use crate::error::Error;
use crate::process::Process;
use crate::settings::Fleet;

/// Below what Linux gives to outgoing connections, of which there are many here: a port that is
/// free now is still free when the control plane starts again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// Streams to one address: Linux has 28,000 ports for them.
const STREAMS_PER_ADDRESS: u32 = 20_000;

/// A control plane in a process of its own.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    program: PathBuf,
    folder: PathBuf,
    variables: Vec<(&'static str, String)>,
    ports: Ports,
    password: Secret,
    everywhere: bool,
    process: Option<Process>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    api: u16,
    link: u16,
    enrolment: u16,
    health: u16,
}

impl ControlPlane {
    /// Starts it for the first time.
    pub(crate) async fn start(folder: &Path, fleet: &Fleet) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::io("this program"))?;
        let [api, link, enrolment, health, a, b, c, d, e] = free_ports()?;
        let ports = Ports {
            api,
            link,
            enrolment,
            health,
        };
        let folder = folder.join("control-plane");
        std::fs::create_dir_all(&folder).map_err(Error::io(folder.display().to_string()))?;
        let everywhere = fleet.nodes > STREAMS_PER_ADDRESS;
        let local = |port: u16| format!("127.0.0.1:{port}");
        let link_listen = if everywhere {
            format!("0.0.0.0:{link}")
        } else {
            local(link)
        };
        let password = one_time_password();
        let room = (fleet.nodes.saturating_mul(2)).max(20_000).to_string();
        let mut variables = vec![
            ("VPNPANEL_DATA_DIR", folder.display().to_string()),
            ("VPNPANEL_BOOTSTRAP_PASSWORD", password.expose().to_owned()),
            ("VPNPANEL_LOCAL_NODE", "false".to_owned()),
            ("VPNPANEL_CONTROL_API_LISTEN", local(api)),
            ("VPNPANEL_CONTROL_API_ADMIN_LISTEN", local(health)),
            ("VPNPANEL_COLLECTOR_LISTEN", link_listen),
            ("VPNPANEL_COLLECTOR_ENROLMENT_LISTEN", local(enrolment)),
            ("VPNPANEL_COLLECTOR_ADMIN_LISTEN", local(a)),
            ("VPNPANEL_SCHEDULER_LISTEN", local(b)),
            ("VPNPANEL_SCHEDULER_ADMIN_LISTEN", local(c)),
            ("VPNPANEL_GATEWAY_LISTEN", local(d)),
            ("VPNPANEL_GATEWAY_ADMIN_LISTEN", local(e)),
            (
                "VPNPANEL_COLLECTOR_LINK_ENDPOINT",
                format!("https://{}", local(link)),
            ),
            (
                "VPNPANEL_ENROLLMENT_URL",
                format!("https://{}", local(enrolment)),
            ),
            // One caller makes everything, and sign-ins are not what is measured.
            ("VPNPANEL_RATE_LIMITS", "false".to_owned()),
            ("VPNPANEL_ARGON2_MEMORY", "8MiB".to_owned()),
            ("VPNPANEL_MAX_CONNECTIONS", room.clone()),
            ("VPNPANEL_COLLECTOR_MAX_STREAMS", room),
        ];
        if std::env::var_os("VPNPANEL_LOG").is_none() {
            variables.push(("VPNPANEL_LOG", "warn".to_owned()));
        }
        if let Some(url) = &fleet.database_url {
            variables.push(("VPNPANEL_DATABASE_URL", url.expose().to_owned()));
        }
        let mut control_plane = Self {
            program,
            folder,
            variables,
            ports,
            password,
            everywhere,
            process: None,
        };
        control_plane.start_again().await?;
        Ok(control_plane)
    }

    /// Starts it when it does not run, and waits until it is ready. Settings of its own in the
    /// environment are passed on.
    pub(crate) async fn start_again(&mut self) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command
            .arg("up")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder);
        let log = self.log();
        let mut process = Process::start(command, &log)?;
        let deadline = Instant::now() + START;
        while !self.is_ready().await {
            let failed = |how| Err(Error::ControlPlane(how, log.display().to_string()));
            if !process.runs() {
                return failed("ended at its start");
            }
            if Instant::now() > deadline {
                return failed("did not become ready within a minute");
            }
            tokio::time::sleep(LOOK).await;
        }
        self.process = Some(process);
        Ok(())
    }

    pub(crate) async fn kill9(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.kill9().await,
            None => Ok(()),
        }
    }

    pub(crate) async fn stop(&mut self) -> Result<(), Error> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// The process, to be measured.
    pub(crate) fn process(&self) -> Result<&Process, Error> {
        let ended = || Error::ControlPlane("does not run", self.log().display().to_string());
        self.process.as_ref().ok_or_else(ended)
    }

    pub(crate) fn api(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    pub(crate) fn password(&self) -> &Secret {
        &self.password
    }

    pub(crate) fn enrolment(&self) -> Result<HttpEndpoint, Error> {
        let url = format!("https://127.0.0.1:{}", self.ports.enrolment);
        url.parse()
            .map_err(|_| Error::Settings(format!("{url} is no address")))
    }

    /// Where a node finds the link: addresses are shared by so many nodes as ports allow.
    pub(crate) fn link(&self, node: u32) -> String {
        let address = match self.everywhere {
            true => 1 + node / STREAMS_PER_ADDRESS,
            false => 1,
        };
        format!("127.0.0.{address}:{}", self.ports.link)
    }

    fn log(&self) -> PathBuf {
        self.folder.join("control-plane.log")
    }

    async fn is_ready(&self) -> bool {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.ports.health)).await?;
            stream
                .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await?;
            Ok::<_, std::io::Error>(answer.ends_with(b" 200"))
        };
        let answer = tokio::time::timeout(Duration::from_secs(2), ask).await;
        matches!(answer, Ok(Ok(true)))
    }
}

fn one_time_password() -> Secret {
    Secret::new(uuid::Uuid::new_v4().to_string())
}

/// Ports of the loopback interface that are free; all are held while they are found.
pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N], Error> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let found = (0..1000).find_map(|_| {
            let tried = rand::random_range(PORTS);
            TcpListener::bind(("0.0.0.0", tried)).ok()
        });
        let listener =
            found.ok_or_else(|| Error::Settings("no free port on the loopback".to_owned()))?;
        *port = listener
            .local_addr()
            .map_err(Error::io("a free port"))?
            .port();
        held.push(listener);
    }
    Ok(ports)
}
