//! A network in memory, on the clock of the runtime: connections with latency that break, stall, swallow what is sent, or
//! close in one direction, all of it decided by a seed.
//!
//! When something happens never depends on how many bytes were written at once, only on the moment and on the connection.
//! So the same seed gives the same run although wake-ups within a moment may come in another order.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use babelward::{
    random::{Random, mix},
    rpc::Incoming,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};

/// Bytes that may be on the way in one direction before a writer has to wait.
const CAPACITY: usize = 128 << 10;

/// What may go wrong on the connections of a network, in parts of a thousand of them.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub reset: u64,
    pub half_closed: u64,
    pub swallowed: u64,
    pub stalled: u64,
    /// Of the attempts to connect: refused, or without an answer.
    pub unreachable: u64,
    /// Longest latency in one direction, in milliseconds.
    pub latency: u64,
}

impl Weather {
    pub const CALM: Self = Self {
        reset: 0,
        half_closed: 0,
        swallowed: 0,
        stalled: 0,
        unreachable: 0,
        latency: 2,
    };
}

/// What is wrong with a direction of a connection from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// What is sent is lost, and nobody is told.
    Swallowed(Instant),
    /// What is sent in this time arrives at its end.
    Stalled(Instant, Instant),
}

/// One direction of a connection.
struct Direction {
    /// What is on the way, and when it arrives. Nothing is the end.
    sent: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last: Instant,
    ended: bool,
    fault: Fault,
    seed: u64,
    latency: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Direction {
    fn new(seed: u64, latency: u64, fault: Fault) -> Self {
        Self {
            sent: VecDeque::new(),
            bytes: 0,
            last: Instant::now(),
            ended: false,
            fault,
            seed,
            latency,
            reader: None,
            writer: None,
        }
    }

    /// When something that is sent now arrives: after what was sent before, and equally late for all that is sent in the
    /// same millisecond.
    fn arrival(&mut self, now: Instant, epoch: Instant) -> Instant {
        let millisecond = now.duration_since(epoch).as_millis() as u64;
        let mut random = Random::new(mix(self.seed ^ millisecond));
        let latency = Duration::from_millis(1 + random.bits() % self.latency.max(1));
        let mut arrival = now + latency;
        if let Fault::Stalled(from, until) = self.fault
            && (from..until).contains(&now)
        {
            arrival = arrival.max(until);
        }
        self.last = self.last.max(arrival);
        self.last
    }

    /// Sends bytes; none of them is the end.
    fn send(&mut self, bytes: &[u8], epoch: Instant) {
        let now = Instant::now();
        let swallowed = matches!(self.fault, Fault::Swallowed(from) if now >= from);
        if self.ended || swallowed {
            return;
        }
        let arrival = self.arrival(now, epoch);
        self.ended |= bytes.is_empty();
        self.bytes += bytes.len();
        self.sent.push_back((arrival, bytes.to_vec()));
        wake(&mut self.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A connection. The first direction is from the client to the server.
struct Connection {
    directions: [Direction; 2],
    reset: bool,
    epoch: Instant,
}

impl Connection {
    fn reset(&mut self) {
        self.reset = true;
        for direction in &mut self.directions {
            wake(&mut direction.reader);
            wake(&mut direction.writer);
        }
    }
}

/// One end of a connection.
pub struct End {
    connection: Arc<Mutex<Connection>>,
    /// The direction that this end writes to.
    writes: usize,
    timer: Pin<Box<Sleep>>,
}

impl End {
    fn new(connection: &Arc<Mutex<Connection>>, writes: usize) -> Self {
        Self {
            connection: Arc::clone(connection),
            writes,
            timer: Box::pin(sleep(Duration::ZERO)),
        }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = Arc::clone(&self.connection);
        let mut connection = shared.lock().unwrap();
        if connection.reset {
            return Poll::Ready(Err(broken()));
        }
        let direction = &mut connection.directions[1 - self.writes];
        let now = Instant::now();
        let Some((arrival, bytes)) = direction.sent.front_mut() else {
            direction.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        if *arrival > now {
            direction.reader = Some(context.waker().clone());
            let at = *arrival;
            self.timer.as_mut().reset(at);
            if self.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let taken = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..taken]);
        bytes.drain(..taken);
        if bytes.is_empty() {
            direction.sent.pop_front();
        }
        direction.bytes -= taken;
        wake(&mut direction.writer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut connection = self.connection.lock().unwrap();
        if connection.reset {
            return Poll::Ready(Err(broken()));
        }
        let epoch = connection.epoch;
        let direction = &mut connection.directions[self.writes];
        if direction.bytes >= CAPACITY {
            direction.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(CAPACITY);
        if taken > 0 {
            direction.send(&bytes[..taken], epoch);
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.connection.lock().unwrap();
        let epoch = connection.epoch;
        connection.directions[self.writes].send(&[], epoch);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    /// A socket that is closed: its peer reads the end, and has written in vain.
    fn drop(&mut self) {
        let mut connection = self.connection.lock().unwrap();
        let epoch = connection.epoch;
        connection.directions[self.writes].send(&[], epoch);
        let unread = &mut connection.directions[1 - self.writes];
        unread.fault = Fault::Swallowed(Instant::now());
        unread.bytes = 0;
        wake(&mut unread.writer);
    }
}

/// Servers by name, and their connections.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    seed: u64,
    weather: Weather,
    epoch: Instant,
    opened: u64,
    servers: BTreeMap<String, Listening>,
}

struct Listening {
    accept: mpsc::UnboundedSender<End>,
    connections: Vec<Arc<Mutex<Connection>>>,
}

/// Where a server of the network takes its connections from.
pub struct Port(tokio::sync::Mutex<mpsc::UnboundedReceiver<End>>);

impl Incoming for Port {
    type Stream = End;

    async fn accept(&self) -> io::Result<End> {
        match self.0.lock().await.recv().await {
            Some(end) => Ok(end),
            None => std::future::pending().await,
        }
    }
}

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed,
            weather,
            epoch: Instant::now(),
            opened: 0,
            servers: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What happens to connections that are opened from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Opens the port of a server.
    pub fn listen(&self, server: &str) -> Port {
        let (accept, accepted) = mpsc::unbounded_channel();
        let listening = Listening {
            accept,
            connections: Vec::new(),
        };
        self.state().servers.insert(server.to_owned(), listening);
        Port(tokio::sync::Mutex::new(accepted))
    }

    /// Closes the port of a server, as a process does that ends: its connections are reset.
    pub fn close(&self, server: &str) {
        let closed = self.state().servers.remove(server);
        for connection in closed.into_iter().flat_map(|closed| closed.connections) {
            connection.lock().unwrap().reset();
        }
    }

    /// Number of connections that were opened.
    pub fn opened(&self) -> u64 {
        self.state().opened
    }

    /// Connects to a server.
    pub async fn connect(&self, server: String) -> io::Result<End> {
        let (mut random, weather, epoch) = {
            let mut state = self.state();
            state.opened += 1;
            let millisecond = Instant::now().duration_since(state.epoch).as_millis() as u64;
            // By the moment and the server, because the order of attempts within a moment may differ.
            let name = server.bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
            let seed = mix(state.seed ^ mix(millisecond) ^ name);
            (Random::new(seed), state.weather, state.epoch)
        };
        sleep(Duration::from_millis(1 + random.bits() % weather.latency.max(1))).await;
        if random.bits() % 1000 < weather.unreachable {
            if random.bits().is_multiple_of(2) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            // Nobody answers; whoever connects has a limit of its own.
            sleep(Duration::from_secs(600)).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let connection = Arc::new(Mutex::new(planned(&mut random, weather, epoch)));
        let [client, accepted] = [0, 1].map(|writes| End::new(&connection, writes));
        {
            let mut state = self.state();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listening = state.servers.get_mut(&server).ok_or_else(refused)?;
            listening.connections.retain(|open| Arc::strong_count(open) > 1);
            listening.connections.push(Arc::clone(&connection));
            listening.accept.send(accepted).map_err(|_| refused())?;
        }
        let at = soon(&mut random);
        let (drawn, direction) = (random.bits() % 1000, (random.bits() % 2) as usize);
        if drawn < weather.reset + weather.half_closed {
            tokio::spawn(async move {
                sleep_until(at).await;
                let mut connection = connection.lock().unwrap();
                if drawn < weather.reset {
                    connection.reset();
                } else {
                    // The reader is told that nothing more comes, and what is sent after that is lost.
                    connection.directions[direction].send(&[], epoch);
                }
            });
        }
        Ok(client)
    }
}

/// A moment within the next five seconds, when most of a scenario happens.
fn soon(random: &mut Random) -> Instant {
    Instant::now() + Duration::from_millis(random.bits() % 5000)
}

/// A connection with the faults that it will have.
fn planned(random: &mut Random, weather: Weather, epoch: Instant) -> Connection {
    let mut direction = |other: Fault| {
        let (at, drawn) = (soon(random), random.bits() % 1000);
        let longest = Duration::from_millis(1 + random.bits() % 90_000);
        let fault = if other != Fault::None {
            Fault::None
        } else if drawn < weather.swallowed {
            Fault::Swallowed(at)
        } else if drawn < weather.swallowed + weather.stalled {
            Fault::Stalled(at, at + longest)
        } else {
            Fault::None
        };
        Direction::new(random.bits(), weather.latency, fault)
    };
    let first = direction(Fault::None);
    let second = direction(first.fault);
    Connection {
        directions: [first, second],
        reset: false,
        epoch,
    }
}
