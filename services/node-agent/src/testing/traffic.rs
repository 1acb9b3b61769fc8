//! Traffic to measure: an HTTP server that sends as many bytes as it is asked for, downloads
//! that can be watched while they run, uploads, and a UDP flood that waits for nobody.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Namespace;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// An HTTP/1.1 server: `GET /<n>` answers n bytes, `POST` reads a body and answers its length.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    accepted: Arc<Mutex<Vec<TcpStream>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on a free port of an address of the namespace.
    pub fn start(host: &Namespace, address: &str) -> Self {
        let listener = host.enter(|| TcpListener::bind((address, 0)).expect("a free port"));
        let address = listener.local_addr().expect("a bound socket");
        let stopping = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(Mutex::new(Vec::new()));
        listener.set_nonblocking(true).expect("a listening socket");
        let acceptor = std::thread::spawn({
            let (stopping, accepted) = (Arc::clone(&stopping), Arc::clone(&accepted));
            move || {
                while !stopping.load(Ordering::Relaxed) {
                    let Ok((stream, _)) = listener.accept() else {
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    stream.set_nonblocking(false).expect("a stream");
                    if let Ok(copy) = stream.try_clone() {
                        accepted.lock().expect("not poisoned").push(copy);
                    }
                    // A client that goes away ends its thread with an error that is its own.
                    std::thread::spawn(move || {
                        let _ = answer(&stream);
                        let _ = stream.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self {
            address,
            stopping,
            accepted,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that answers so many bytes, for curl.
    pub fn url(&self, bytes: u64) -> String {
        format!("http://{}/{bytes}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.accepted.lock().expect("not poisoned").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn answer(stream: &TcpStream) -> std::io::Result<()> {
    let mut writer = stream;
    let mut reader = BufReader::new(stream);
    let (mut first, mut length, mut waits) = (String::new(), 0, false);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        waits |= line == "expect: 100-continue";
    }
    if waits {
        write!(writer, "{CONTINUE}")?;
    }
    if first.starts_with("POST") {
        let read = std::io::copy(&mut reader.take(length), &mut std::io::sink())?.to_string();
        let size = read.len();
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{read}"
        )
    } else {
        let asked: u64 = first
            .split_whitespace()
            .nth(1)
            .and_then(|path| path.trim_start_matches('/').parse().ok())
            .unwrap_or(0);
        write!(
            writer,
            "HTTP/1.1 200 OK\r\nContent-Length: {asked}\r\nConnection: close\r\n\r\n"
        )?;
        std::io::copy(&mut std::io::repeat(0x5a).take(asked), &mut writer).map(drop)
    }
}

/// A download that runs.
#[derive(Debug)]
pub struct Download {
    received: Arc<AtomicU64>,
    stream: TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl Download {
    /// Asks the server for so many bytes, from a namespace.
    pub fn start(host: &Namespace, server: &Server, bytes: u64) -> Self {
        Self::through(host, server.address(), bytes)
    }

    /// Asks whatever server is reached at an address for so many bytes.
    pub fn through(host: &Namespace, address: SocketAddr, bytes: u64) -> Self {
        let mut stream = host.enter(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("a connection")
        });
        // Where the other end has closed already, the reader finds that out.
        let _ = write!(stream, "GET /{bytes} HTTP/1.1\r\nHost: test\r\n\r\n");
        let received = Arc::new(AtomicU64::new(0));
        let reader = std::thread::spawn({
            let received = Arc::clone(&received);
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            move || {
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                    line.clear();
                }
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read) = reader.read(&mut buffer) {
                    if read == 0 {
                        break;
                    }
                    received.fetch_add(read as u64, Ordering::Relaxed);
                }
            }
        });
        Self {
            received,
            stream,
            reader: Some(reader),
        }
    }

    /// Bytes of the body that have arrived so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether the connection has ended, with all bytes or not.
    pub fn ended(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end of the download and returns how many bytes arrived.
    ///
    /// # Panics
    /// When it has not ended within `limit`.
    pub fn finish(mut self, limit: Duration) -> u64 {
        let deadline = std::time::Instant::now() + limit;
        while !self.ended() {
            let received = self.received();
            assert!(
                std::time::Instant::now() < deadline,
                "not within {limit:?}: the download ends; {received} bytes arrived"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.received()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// An upload that runs until it is dropped.
#[derive(Debug)]
pub struct Upload {
    stream: TcpStream,
    writer: Option<JoinHandle<()>>,
}

impl Upload {
    /// Sends to the server without end, from a namespace.
    pub fn start(host: &Namespace, server: &Server) -> Self {
        let address = server.address();
        let mut stream = host.enter(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("a connection")
        });
        write!(
            stream,
            "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
            1_u64 << 50
        )
        .expect("a request");
        let mut copy = stream.try_clone().expect("a stream");
        let writer = std::thread::spawn(move || {
            // It ends with an error when it is dropped.
            let _ = std::io::copy(&mut std::io::repeat(0xa5), &mut copy);
        });
        Self {
            stream,
            writer: Some(writer),
        }
    }

    /// Whether the connection has ended.
    pub fn ended(&self) -> bool {
        self.writer.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Uploads so many bytes from a namespace and returns how many the server says it read.
pub fn upload(host: &Namespace, server: &Server, bytes: u64) -> u64 {
    upload_through(host, server.address(), bytes)
}

/// Uploads so many bytes to whatever server is reached at an address.
pub fn upload_through(host: &Namespace, address: SocketAddr, bytes: u64) -> u64 {
    let mut stream = host.enter(|| {
        TcpStream::connect_timeout(&address, Duration::from_secs(20)).expect("a connection")
    });
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {bytes}\r\nExpect: 100-continue\r\n\r\n"
    )
    .expect("a request");
    // Some clients of tunnels fail when a first write is as large as their buffer.
    stream
        .read_exact(&mut [0; CONTINUE.len()])
        .expect("a word to go on");
    std::io::copy(&mut std::io::repeat(0xa5).take(bytes), &mut stream).expect("an upload");
    // By its length and not up to the end: some tunnels do not carry the end of a connection.
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).expect("an answer") > 2 {
        if let Some(value) = line.strip_prefix("Content-Length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    String::from_utf8_lossy(&body).parse().expect("a number")
}

/// Sends datagrams of 1,200 bytes from a namespace until `bytes` have been sent, whether or not
/// anybody receives them; returns what was sent.
pub fn flood(host: &Namespace, target: SocketAddr, bytes: u64) -> u64 {
    let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", 0)).expect("a socket"));
    let (datagram, mut sent) = ([0x77; 1200], 0);
    while sent < bytes {
        sent += socket.send_to(&datagram, target).unwrap_or(0) as u64;
        if sent % 120_000 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    sent
}
