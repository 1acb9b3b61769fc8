//! The line between a node and the control plane, where it can break: a relay for each node.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::error::Error;

/// How the line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Whole,
    /// What is open is closed, and nothing new is let through.
    Cut,
    /// What is open stays so, and carries nothing.
    HalfOpen,
}

/// A relay; the connections through it end with it.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Relay {
    /// Opens a relay to `target`.
    pub(crate) async fn open(target: String) -> Result<Self, Error> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(Error::io("relay"))?;
        let address = listener.local_addr().map_err(Error::io("relay"))?;
        let (line, state) = watch::channel(Line::Whole);
        tokio::spawn(serve(listener, target, state));
        Ok(Self { address, line })
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

/// Takes connections until the relay is dropped. An agent has one at a time.
async fn serve(listener: TcpListener, target: String, line: watch::Receiver<Line>) {
    let mut gone = line.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if *line.borrow() != Line::Cut => {
                    tokio::spawn(carry(stream, target.clone(), line.clone()));
                }
                Ok(_refused) => {}
                // There may be descriptors again when other connections have ended.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            changed = gone.changed() => if changed.is_err() { return },
        }
    }
}

/// Carries one connection until an end closes it or the line is cut.
async fn carry(near: TcpStream, target: String, mut line: watch::Receiver<Line>) {
    let Ok(far) = TcpStream::connect(&target).await else {
        return;
    };
    // Small frames should not wait for each other; a line without that is only slower.
    let _slower = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let (up, down) = (line.clone(), line.clone());
    tokio::select! {
        () = pump(near_in, far_out, up) => {}
        () = pump(far_in, near_out, down) => {}
        _cut_or_gone = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            changed = line.changed() => match changed {
                Ok(()) => None,
                Err(_gone) => return,
            },
            read = from.read(&mut buffer) => Some(read),
        };
        // What was read before the line broke waits with the rest.
        if line.wait_for(|line| *line != Line::HalfOpen).await.is_err() {
            return;
        }
        let length = match read {
            None => continue,
            Some(Ok(length)) if length > 0 => length,
            Some(_closed) => return,
        };
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_half_open_line_carries_on_later_and_a_cut_one_ends() {
        let far = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::open(far.local_addr().unwrap().to_string())
            .await
            .unwrap();
        let mut near = TcpStream::connect(relay.address).await.unwrap();
        let (mut end, _) = far.accept().await.unwrap();
        let mut said = [0; 5];

        near.write_all(b"first").await.unwrap();
        end.read_exact(&mut said).await.unwrap();
        relay.set(Line::HalfOpen);
        near.write_all(b"later").await.unwrap();
        relay.set(Line::Whole);
        end.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"later");

        relay.set(Line::Cut);
        assert_eq!(end.read(&mut said).await.unwrap_or(0), 0);
        let mut refused = TcpStream::connect(relay.address).await.unwrap();
        assert_eq!(refused.read(&mut said).await.unwrap_or(0), 0);
    }
}
