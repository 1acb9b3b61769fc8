//! Traffic that goes on by itself at a measured pace, and notes every interruption.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vpnpanel_node_agent::testing::Namespace;

/// What lies in buffers on the way is counted already: with little of it, what a client receives in a
/// second is what is counted in that second.
pub(crate) fn small_buffers(host: &Namespace) {
    for name in ["tcp_rmem", "tcp_wmem"] {
        let setting = format!("net.ipv4.{name}=4096 65536 131072");
        host.run("sysctl", &["-qw", &setting]);
    }
}

/// A subscriber that uses its tunnel until this is stopped.
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stopping: AtomicBool,
    received: AtomicU64,
    connections: AtomicU64,
    longest_gap_ms: AtomicU64,
}

impl Traffic {
    /// Downloads from the server without end, so many bytes in a second, over one connection
    /// that is made anew only when it breaks or stands still for a minute.
    pub(crate) fn start(host: &Namespace, server: SocketAddr, bytes_per_second: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = host.enter(|| {
            let shared = Arc::clone(&shared);
            // A thread inherits the namespace of the one that makes it.
            std::thread::spawn(move || {
                while !shared.stopping.load(Ordering::Relaxed) {
                    if shared.download(server, bytes_per_second).is_err() {
                        std::thread::sleep(Duration::from_millis(200));
                    }
                }
            })
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Bytes received so far.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Connections that were needed.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The longest time in which nothing arrived.
    pub(crate) fn longest_gap(&self) -> Duration {
        Duration::from_millis(self.shared.longest_gap_ms.load(Ordering::Relaxed))
    }

    /// Ends it.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn download(&self, server: SocketAddr, bytes_per_second: u64) -> std::io::Result<()> {
        const ENDLESS: u64 = 1 << 50;
        const STANDSTILL: Duration = Duration::from_secs(60);
        const CATCHES_UP: Duration = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        write!(stream, "GET /{ENDLESS} HTTP/1.1\r\nHost: test\r\n\r\n")?;
        self.connections.fetch_add(1, Ordering::Relaxed);
        let mut buffer = vec![0; 32 << 10];
        let (mut last, mut began, mut received) = (Instant::now(), Instant::now(), 0_u64);
        while !self.stopping.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    if last.elapsed() > CATCHES_UP {
                        // Who was stopped goes on at the pace, and not faster.
                        (began, received) = (Instant::now(), 0);
                    }
                    received += read as u64;
                    self.received.fetch_add(read as u64, Ordering::Relaxed);
                    self.note_gap(last);
                    let due = Duration::from_secs_f64(received as f64 / bytes_per_second as f64);
                    let ahead = due.saturating_sub(began.elapsed());
                    std::thread::sleep(ahead.min(Duration::from_millis(100)));
                    last = Instant::now();
                }
                Err(error) if is_timeout(&error) => {
                    self.note_gap(last);
                    if last.elapsed() > STANDSTILL {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn note_gap(&self, last: Instant) {
        let gap = u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.longest_gap_ms.fetch_max(gap, Ordering::Relaxed);
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}
