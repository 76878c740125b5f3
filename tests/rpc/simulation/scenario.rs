//! One scenario: what is asked, what goes wrong, and what must hold all the same.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use babelward::{
    client::{
        Client, ClientError, ClientOptions, ItemResult, Jitter, RetryPolicy, RpcError, ScoreItem,
        StreamOptions,
    },
    proto::{self, Label},
    random::{Random, mix},
};
use hyper_util::rt::TokioIo;
use tokio::{
    task::{JoinSet, LocalSet, yield_now},
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use super::{
    network::{Network, Weather},
    server::{Allowed, Life},
};
use crate::rig::{classify, generate, score};

/// Longest time of the simulation's clock in which a scenario must end, whatever goes wrong. What a client cannot be told,
/// keep-alive finds within two minutes, and an attempt follows at most a minute after another.
const LONGEST: Duration = Duration::from_secs(3600);

/// Time after which a server must have noticed that its clients are gone.
const NOTICED: Duration = Duration::from_secs(300);

/// What a scenario, or all of them, did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What happened and when, in milliseconds.
    trace: Vec<(u64, String)>,
    answered: BTreeMap<&'static str, usize>,
    failed: BTreeMap<String, usize>,
    connections: u64,
    kills: usize,
    drains: usize,
    jumps: usize,
    seconds: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.answered {
            *self.answered.entry(kind).or_default() += count;
        }
        for (error, count) in &other.failed {
            *self.failed.entry(error.clone()).or_default() += count;
        }
        self.connections += other.connections;
        self.kills += other.kills;
        self.drains += other.drains;
        self.jumps += other.jumps;
        self.seconds += other.seconds;
    }

    /// Prints what happened when.
    pub fn print(&self) {
        for (milliseconds, text) in &self.trace {
            println!("{milliseconds:8} ms  {text}");
        }
    }

    pub fn summary(&self) -> String {
        format!(
            "{} s simulated, {} connections, {} servers killed and {} drained, {} jumps of the clock; answered {:?}, \
             failed {:?}",
            self.seconds, self.connections, self.kills, self.drains, self.jumps, self.answered, self.failed
        )
    }

    /// Enough of everything has happened for the checks to mean something.
    pub fn assert_covered(&self) {
        for kind in ["item", "verdict", "generation", "cancelled"] {
            let answered = self.answered.get(kind).copied().unwrap_or_default();
            assert!(answered > 50, "{kind}: {}", self.summary());
        }
        assert!(
            self.kills > 10 && self.drains > 10 && self.jumps > 10,
            "{}",
            self.summary()
        );
        assert!(self.failed.len() > 3, "{}", self.summary());
    }
}

/// What the tasks of a scenario share.
#[derive(Clone)]
struct Log {
    epoch: Instant,
    outcome: Arc<Mutex<Outcome>>,
}

impl Log {
    fn note(&self, text: String) {
        let at = Instant::now().duration_since(self.epoch).as_millis() as u64;
        self.outcome.lock().unwrap().trace.push((at, text));
    }

    fn answered(&self, kind: &'static str, name: &str) {
        self.note(format!("{kind} {name} answered"));
        *self.outcome.lock().unwrap().answered.entry(kind).or_default() += 1;
    }

    /// Notes a failure, which must be one that tells its caller something.
    fn failed(&self, name: &str, error: &ClientError) {
        let said = explained(error);
        self.note(format!("{name} failed: {said}"));
        *self.outcome.lock().unwrap().failed.entry(said).or_default() += 1;
    }
}

/// The error in short. Errors that a broken network, a busy or a restarted server cannot cause fail the test.
fn explained(error: &ClientError) -> String {
    let rpc = match error {
        ClientError::Rpc(rpc) => rpc,
        ClientError::StreamGaveUp { last, .. } => last,
        other => panic!("{other}"),
    };
    let allowed = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::ResourceExhausted,
        Code::Cancelled,
    ];
    assert!(allowed.contains(&rpc.code), "{rpc:?}");
    let reason = rpc.reason.clone().unwrap_or_default();
    format!("{:?} {reason}", rpc.code)
}

/// Runs the scenario of a seed.
pub fn simulate(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap();
    // The client's streams stay on one thread.
    LocalSet::new().block_on(&runtime, async {
        let ended = timeout(LONGEST, scenario(seed)).await;
        ended.unwrap_or_else(|_| panic!("seed {seed}: something hangs"))
    })
}

const SERVERS: [&str; 2] = ["one", "two"];

async fn scenario(seed: u64) -> Outcome {
    let mut random = Random::new(mix(seed ^ 0x5eed));
    let log = Log {
        epoch: Instant::now(),
        outcome: Arc::default(),
    };
    let mut up_to = |most: u64| random.bits() % most;
    let weather = Weather {
        reset: up_to(400),
        half_closed: up_to(150),
        swallowed: up_to(150),
        stalled: up_to(300),
        unreachable: up_to(200),
        latency: [1, 5, 50, 400][up_to(4) as usize],
    };
    let allowed = Allowed {
        queue_items: [4, 16, 2048][up_to(3) as usize],
        calls: 24,
        requests_per_minute: [None, None, Some(60)][up_to(3) as usize],
    };
    let servers = &SERVERS[..1 + up_to(2) as usize];
    let network = Network::new(seed, weather);
    let mut lives = BTreeMap::new();
    for name in servers {
        lives.insert(
            *name,
            Life::begin(&network, name, &allowed, mix(seed ^ up_to(1 << 30))).await,
        );
    }

    let mut work = JoinSet::new();
    for number in 0..3 {
        let draw = Random::new(mix(seed ^ (number << 32)));
        let client = Clients::new(&network, servers, seed ^ number, number == 2);
        let log = log.clone();
        match number {
            0 => work.spawn_local(score_items(client, draw, log)),
            1 => work.spawn_local(classify_one_by_one(client, draw, log)),
            _ => work.spawn_local(generate_and_cancel(client, draw, log)),
        };
    }
    let mut faults = Random::new(mix(seed ^ 0xfa17));
    while !work.is_empty() {
        let pause = Duration::from_millis(200 + faults.bits() % 3000);
        tokio::select! {
            biased;
            Some(done) = work.join_next() => done.unwrap(),
            () = sleep(pause) => disturb(&mut faults, &network, &mut lives, &allowed, &log).await,
        }
    }

    // The network is sound from now on. Servers notice that nobody is there, and give back all that was taken.
    network.set_weather(Weather::CALM);
    for (name, life) in &lives {
        let began = Instant::now();
        while !life.is_idle() {
            assert!(began.elapsed() < NOTICED, "{name} still has open sequences");
            sleep(Duration::from_millis(500)).await;
        }
    }
    sleep(NOTICED).await;
    everything_is_given_back(&network, servers, &allowed, seed).await;
    for (name, life) in lives {
        assert!(life.is_idle(), "{name} still has open sequences");
        let took = life.drain(&network, name).await;
        assert!(
            took < Duration::from_secs(5),
            "{name} waited {took:?} for calls that nobody has open"
        );
    }
    yield_now().await;
    let mut outcome = std::mem::take(&mut *log.outcome.lock().unwrap());
    outcome.trace.sort();
    outcome.connections = network.opened();
    outcome.seconds = log.epoch.elapsed().as_secs();
    outcome
}

/// Kills or drains a server, starts one that is down, or lets the clock jump.
async fn disturb(
    random: &mut Random,
    network: &Network,
    lives: &mut BTreeMap<&'static str, Life>,
    allowed: &Allowed,
    log: &Log,
) {
    let name = SERVERS[(random.bits() % 2) as usize];
    let (what, how_long) = (random.bits() % 8, random.bits());
    let down = Duration::from_millis(how_long % 4000);
    match what {
        0 | 1 => {
            let Some(life) = lives.remove(name) else { return };
            log.note(format!("{name} is killed"));
            log.outcome.lock().unwrap().kills += 1;
            life.kill(network, name);
            sleep(down).await;
            lives.insert(name, Life::begin(network, name, allowed, how_long).await);
        }
        2 | 3 => {
            let Some(life) = lives.remove(name) else { return };
            log.note(format!("{name} is drained"));
            log.outcome.lock().unwrap().drains += 1;
            life.drain(network, name).await;
            sleep(down).await;
            lives.insert(name, Life::begin(network, name, allowed, how_long).await);
        }
        4 => {
            let jump = Duration::from_millis([50, 900, 20_000, 100_000][(how_long % 4) as usize]);
            log.note(format!("the clock jumps by {jump:?}"));
            log.outcome.lock().unwrap().jumps += 1;
            tokio::time::advance(jump).await;
        }
        _ => {}
    }
}

/// Makes clients that share the connections to all servers.
struct Clients {
    channels: Vec<Channel>,
    options: ClientOptions,
}

impl Clients {
    fn new(network: &Network, servers: &[&'static str], seed: u64, tries_once: bool) -> Self {
        let retry = RetryPolicy {
            max_attempts: if tries_once { 1 } else { 6 },
            ..RetryPolicy::default()
        };
        let options = ClientOptions {
            retry,
            jitter: Jitter::seeded(mix(seed)),
            ..ClientOptions::default()
        };
        let channels = servers.iter().map(|name| channel(network, name, &options));
        Self {
            channels: channels.collect(),
            options,
        }
    }

    /// A client whose attempts may take so long.
    fn client(&self, call_timeout: Option<Duration>) -> Client {
        let options = ClientOptions {
            call_timeout,
            ..self.options.clone()
        };
        Client::over(self.channels.clone(), options)
    }
}

/// A connection to a server of the simulation, which is opened when it is used.
pub(super) fn channel(network: &Network, server: &'static str, options: &ClientOptions) -> Channel {
    let endpoint = options.tuned(Endpoint::from_static("http://simulated"));
    let network = network.clone();
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let network = network.clone();
        async move { network.connect(server.to_owned()).await.map(TokioIo::new) }
    }))
}

/// What an item asks for, so that its answer shows which item it is for.
fn marked(name: &str, is_unsafe: bool) -> String {
    let marker = if is_unsafe { "[unsafe] " } else { "" };
    format!("{marker}[say {name}]")
}

/// Streams of items. Each must have one result, which is its own.
async fn score_items(clients: Clients, mut random: Random, log: Log) {
    let count = 4 + random.below(12);
    let items = (0..count).map(|number| ScoreItem {
        id: format!("{number}"),
        request: score(&marked(&format!("item-{number}"), number % 3 == 0)),
    });
    let options = StreamOptions {
        window: 1 + random.below(12),
        item_timeout: [None, Some(Duration::from_secs(2)), Some(Duration::from_secs(20))][random.below(3)],
    };
    let mut results = vec![0; count];
    let mut on_result = |id: &str, result: ItemResult| {
        let number: usize = id.parse().unwrap();
        results[number] += 1;
        assert_eq!(results[number], 1, "item {number} has more than one result");
        match result {
            Ok(response) => {
                let [sample] = response.samples.as_slice() else {
                    panic!("{response:?}")
                };
                assert_eq!(
                    sample.text,
                    format!("item-{number}"),
                    "the answer of another item"
                );
                let expected = if number.is_multiple_of(3) {
                    Label::Unsafe
                } else {
                    Label::Safe
                };
                let label = sample.verdict.as_ref().unwrap().label();
                assert_eq!(label, expected, "the verdict of another item");
                log.answered("item", id);
            }
            Err(error) => log.failed(id, &ClientError::Rpc(error)),
        }
    };
    let client = clients.client(None);
    let ended = client
        .score_stream(items.collect(), &options, &mut on_result)
        .await;
    let without = results.iter().filter(|results| **results == 0).count();
    match ended {
        Ok(()) => assert_eq!(without, 0, "items have no result"),
        Err(error) => {
            if let ClientError::StreamGaveUp { unanswered, .. } = &error {
                assert_eq!(
                    *unanswered, without,
                    "the error counts other items than have no result"
                );
            }
            log.failed("stream", &error);
        }
    }
}

/// Unary calls with deadlines, one after the other.
async fn classify_one_by_one(clients: Clients, mut random: Random, log: Log) {
    let client = clients.client(None);
    for number in 0..4 + random.below(8) {
        let is_unsafe = random.below(2) == 0;
        let text = marked(&format!("call-{number}"), is_unsafe);
        match client.classify(classify(&[&text])).await {
            Ok(response) => {
                let expected = if is_unsafe { Label::Unsafe } else { Label::Safe };
                assert_eq!(
                    response.verdict.unwrap().label(),
                    expected,
                    "the verdict of another call"
                );
                log.answered("verdict", &number.to_string());
            }
            Err(error) => log.failed(&format!("call {number}"), &error),
        }
        sleep(Duration::from_millis(random.bits() % 500)).await;
    }
}

/// Answers that are read to their end, or left in the middle. Each call has a deadline and is tried once.
async fn generate_and_cancel(clients: Clients, mut random: Random, log: Log) {
    for number in 0..4 + random.below(8) {
        let limit = Duration::from_millis(200 + random.bits() % 8000);
        let name = format!("answer-{number}");
        let began = Instant::now();
        let leaves_after = if random.below(3) == 0 {
            random.below(4)
        } else {
            usize::MAX
        };
        let opened = clients
            .client(Some(limit))
            .generate(generate(&marked(&name, false)))
            .await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                log.failed(&name, &error);
                let took = began.elapsed();
                let jumps = log.outcome.lock().unwrap().jumps;
                // A clock that jumps is later than it says.
                assert!(
                    took <= limit + Duration::from_millis(20) || jumps > 0,
                    "{name} took {took:?} of {limit:?}: {error}"
                );
                continue;
            }
        };
        // An answer that has begun is bounded by the server's clock and, where the connection is lost, by keep-alive.
        match read(stream, &name, leaves_after).await {
            Ok(true) => log.answered("generation", &name),
            Ok(false) => log.answered("cancelled", &name),
            Err(error) => log.failed(&name, &error),
        }
        sleep(Duration::from_millis(random.bits() % 500)).await;
    }
}

/// Reads an answer, which must be the one to its prompt. Returns whether it was read to its end.
async fn read(
    mut stream: Streaming<proto::GenerateResponse>,
    name: &str,
    leaves_after: usize,
) -> Result<bool, ClientError> {
    let mut text = String::new();
    let mut finished = false;
    for number in 0.. {
        if number == leaves_after {
            return Ok(false);
        }
        let message = stream.message().await;
        let Some(response) = message.map_err(|status| RpcError::from_status(&status))? else {
            break;
        };
        match response.event.unwrap() {
            proto::generate_response::Event::Delta(delta) => text.push_str(&delta.text),
            proto::generate_response::Event::Finished(_) => finished = true,
            proto::generate_response::Event::Started(_) => {}
            other => panic!("{other:?} without a guard"),
        }
        assert!(
            name.starts_with(&text),
            "{text} is part of another answer than {name}"
        );
    }
    assert!(
        finished,
        "{name} ended without its last event and without an error"
    );
    assert_eq!(text, name, "the answer to another prompt");
    Ok(true)
}

/// As many calls at once as a server allows are all answered at the first attempt: no permit of a call is still taken by one
/// that is long gone.
async fn everything_is_given_back(network: &Network, servers: &[&'static str], allowed: &Allowed, seed: u64) {
    for server in servers {
        let client = Clients::new(network, &[server], seed, true).client(None);
        // The queue of the engine may be shorter than that.
        let most = allowed.calls.min(allowed.queue_items);
        let mut calls = JoinSet::new();
        for number in 0..most {
            let client = client.clone();
            calls.spawn(async move {
                let text = marked(&format!("last-{number}"), true);
                let verdict = client.classify(classify(&[&text])).await;
                assert_eq!(verdict.unwrap().verdict.unwrap().label(), Label::Unsafe);
            });
        }
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    }
}
