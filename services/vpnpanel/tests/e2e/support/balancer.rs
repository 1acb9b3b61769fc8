//! What stands before replicas: connections to one port go to the first replica that takes them,
//! beginning with another one each time.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use vpnpanel_node_agent::testing::Namespace;

const TRIES: Duration = Duration::from_secs(1);

/// A balancer of a host; it ends with this.
pub(crate) struct Balancer {
    stop: tokio_util::sync::CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Balancer {
    /// Balances each of these ports of an address among replicas `1` and `2` on the loopback, which
    /// listen a thousand and two thousand ports above.
    pub(crate) fn start(host: &Namespace, doors: &[(&str, u16)]) -> Self {
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone();
        let doors: Vec<(SocketAddr, u16)> = doors
            .iter()
            .map(|(address, port)| {
                (
                    SocketAddr::new(address.parse().expect("an address"), *port),
                    *port,
                )
            })
            .collect();
        // A thread inherits the namespace of the one that makes it.
        let thread = host.enter(|| std::thread::spawn(move || serve(doors, stopped)));
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(doors: Vec<(SocketAddr, u16)>, stop: tokio_util::sync::CancellationToken) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        for (address, port) in doors {
            let listener = TcpListener::bind(address).await.expect("a free port");
            tokio::spawn(accept(listener, port));
        }
        stop.cancelled().await;
    });
}

async fn accept(listener: TcpListener, port: u16) {
    let mut turn = 0;
    loop {
        let Ok((near, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        turn += 1;
        tokio::spawn(carry(near, port, turn));
    }
}

async fn carry(mut near: TcpStream, port: u16, turn: u16) -> io::Result<()> {
    for step in 0..2 {
        let replica = 1 + (turn + step) % 2;
        let target = ("127.0.0.1", port + 1_000 * replica);
        if let Ok(Ok(mut far)) = tokio::time::timeout(TRIES, TcpStream::connect(target)).await {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut near, &mut far).await?;
            return Ok(());
        }
    }
    Ok(())
}
