//! Drives a `ScoreStream` or `ClassifyStream` to its end: writes while it reads, matches answers by id, and sends unanswered
//! items on a new stream when one breaks. A seeded item gives the same result wherever it is computed, so it is safe to send
//! it again.

mod method;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    error::Error as _,
    ops::ControlFlow,
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

pub use self::method::{ClassifyItems, ItemResult, ScoreItems, StreamMethod};
use super::{
    channel::{Client, ClientOptions},
    error::{ClientError, RpcError},
    retry::{Jitter, RetryPolicy},
};
use crate::{proto::ScoreRequest, status_code::code_name};

/// How long a finished stream may take to close before it is reset.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Additional time, after the timeout of an item, before a silent stream counts as broken.
const STALL_GRACE: Duration = Duration::from_secs(30);

/// One item of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamItem<T> {
    /// Id of 1 to 128 bytes that no other item of the call has.
    pub id: String,
    /// The request of the item.
    pub request: T,
}

/// One prompt to be answered and judged.
pub type ScoreItem = StreamItem<ScoreRequest>;

/// Gives the items of a stream, and receives their results.
pub trait StreamWork<M: StreamMethod> {
    /// The next item. It is called when the window has room; `None` means that there are no more items.
    fn next(&mut self) -> Option<StreamItem<M::Request>>;

    /// Number of items that [`StreamWork::next`] has not returned yet.
    fn left(&self) -> usize;

    /// Receives the result of each item exactly once, in the order of the answers, which is not that of the items. `Break` ends
    /// the stream and cancels the open items.
    fn ended(&mut self, id: &str, result: ItemResult<M::Response>) -> ControlFlow<()>;
}

/// How a stream is driven.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Most items that are taken from the work and have no result, at least 1: those that are sent and not answered, and those
    /// that wait to be sent again.
    pub window: usize,
    /// How long the server may take for one item after it has read it. A stream that is silent for half a minute longer than
    /// this counts as broken. Without it there is no limit.
    pub item_timeout: Option<Duration>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            window: 64,
            item_timeout: None,
        }
    }
}

impl Client {
    /// Scores all items, and calls `on_result` with each result. See [`Client::drive`].
    ///
    /// # Errors
    /// As [`Client::drive`], and [`ClientError::DuplicateId`] before anything is sent.
    pub async fn score_stream(
        &self,
        items: Vec<ScoreItem>,
        options: &StreamOptions,
        on_result: &mut dyn FnMut(&str, ItemResult),
    ) -> Result<(), ClientError> {
        let mut ids = BTreeSet::new();
        if let Some(twice) = items.iter().find(|item| !ids.insert(item.id.as_str())) {
            return Err(ClientError::DuplicateId(twice.id.clone()));
        }
        let mut work = ListWork {
            items: items.into_iter(),
            on_result,
        };
        self.drive::<ScoreItems>(&mut work, options).await
    }

    /// Sends the items of `work` until each has its result. Items that fail with a retryable code are sent again, with the
    /// retries of the policy. With several servers there is a stream to each of them, all of which take their items from
    /// `work`, with an equal part of the window; what a broken stream leaves unanswered goes to the next server. Dropping the
    /// future cancels the open items.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] when the server refuses the stream itself, [`ClientError::StreamGaveUp`] when it broke as many times
    /// as the policy allows without an answer in between, [`ClientError::DuplicateId`], [`ClientError::Protocol`]. Results that
    /// `work` has received stay valid.
    pub async fn drive<M: StreamMethod>(
        &self,
        work: &mut dyn StreamWork<M>,
        options: &StreamOptions,
    ) -> Result<(), ClientError> {
        let work = RefCell::new(work);
        let window = options.window.max(1);
        let lanes = self.servers().min(window);
        let mut open: FuturesUnordered<_> = (0..lanes)
            .map(|lane| {
                let options = StreamOptions {
                    window: window / lanes + usize::from(lane < window % lanes),
                    ..options.clone()
                };
                self.drive_lane(lane, &work, options)
            })
            .collect();
        while let Some(ended) = open.next().await {
            if ended? == LaneEnd::Stopped {
                break;
            }
        }
        Ok(())
    }

    /// Keeps one stream open, at first to the server with the number of the lane.
    async fn drive_lane<M: StreamMethod>(
        &self,
        lane: usize,
        work: &SharedWork<'_, M>,
        options: StreamOptions,
    ) -> Result<LaneEnd, ClientError> {
        let mut driver = Driver::<M>::new(work, options, &self.options);
        let mut failed = 0;
        let mut server = lane;
        loop {
            driver.wait_for_work().await;
            if driver.is_done() {
                return Ok(LaneEnd::Done);
            }
            let Err(end) = driver.one_stream(self, server).await else {
                return Ok(LaneEnd::Done);
            };
            let broken = match end {
                StreamEnd::Stopped => return Ok(LaneEnd::Stopped),
                StreamEnd::Fatal(error) => return Err(error),
                StreamEnd::Broken(broken) => broken,
            };
            driver.requeue_open();
            server += 1;
            failed = if broken.answered { 1 } else { failed + 1 };
            let delay = self
                .options
                .retry
                .delay(failed, broken.error.hint, self.options.jitter.next());
            tracing::debug!(
                code = code_name(broken.error.code),
                reason = broken.error.reason.as_deref(),
                attempt = failed,
                again_in_ms = delay.map(|delay| delay.as_secs_f64() * 1e3),
                "a stream broke"
            );
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => {
                    let left = driver.work.borrow().left();
                    return Err(ClientError::StreamGaveUp {
                        streams: failed,
                        unanswered: driver.waiting.len() + driver.delayed.len() + left,
                        last: broken.error,
                    });
                }
            }
        }
    }
}

/// The work of all streams of one call.
type SharedWork<'a, M> = RefCell<&'a mut dyn StreamWork<M>>;

/// How a stream to one server has ended, when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LaneEnd {
    /// There is nothing left for it to do.
    Done,
    /// The work has ended the call.
    Stopped,
}

/// A list of items.
struct ListWork<'a> {
    items: std::vec::IntoIter<ScoreItem>,
    on_result: &'a mut dyn FnMut(&str, ItemResult),
}

impl StreamWork<ScoreItems> for ListWork<'_> {
    fn next(&mut self) -> Option<ScoreItem> {
        self.items.next()
    }

    fn left(&self) -> usize {
        self.items.len()
    }

    fn ended(&mut self, id: &str, result: ItemResult) -> ControlFlow<()> {
        (self.on_result)(id, result);
        ControlFlow::Continue(())
    }
}

/// An item that has no result yet.
#[derive(Debug, Clone)]
struct Pending<T> {
    order: usize,
    failed: u32,
    item: StreamItem<T>,
}

enum StreamEnd {
    Broken(Broken),
    Fatal(ClientError),
    /// The work has ended the stream.
    Stopped,
}

/// Why a stream ended before its work did.
struct Broken {
    error: RpcError,
    /// Whether there was at least one answer.
    answered: bool,
}

struct Driver<'a, 'w, M: StreamMethod> {
    work: &'a SharedWork<'w, M>,
    options: StreamOptions,
    retry: RetryPolicy,
    jitter: Jitter,
    /// Number of items that were taken from the work.
    taken: usize,
    /// Whether the work has no more items.
    exhausted: bool,
    /// Items to send next, in order.
    waiting: VecDeque<Pending<M::Request>>,
    /// Items that are sent and not answered, by id.
    open: BTreeMap<String, Pending<M::Request>>,
    /// Items that failed with a retryable code, each with the time from which on it is sent again.
    delayed: Vec<(Instant, Pending<M::Request>)>,
}

impl<'a, 'w, M: StreamMethod> Driver<'a, 'w, M> {
    fn new(work: &'a SharedWork<'w, M>, options: StreamOptions, client: &ClientOptions) -> Self {
        Self {
            work,
            options,
            retry: client.retry.clone(),
            jitter: client.jitter.clone(),
            taken: 0,
            exhausted: false,
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            delayed: Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.exhausted && self.waiting.is_empty() && self.open.is_empty() && self.delayed.is_empty()
    }

    /// The next waiting item, otherwise the next item of the work.
    fn next_pending(&mut self) -> Option<Pending<M::Request>> {
        if let Some(pending) = self.waiting.pop_front() {
            return Some(pending);
        }
        let item = self.work.borrow_mut().next();
        self.exhausted = item.is_none();
        let order = self.taken;
        self.taken += 1;
        Some(Pending {
            order,
            failed: 0,
            item: item?,
        })
    }

    fn next_wake(&self) -> Option<Instant> {
        self.delayed.iter().map(|(at, _)| *at).min()
    }

    /// Waits until there is an item to send, because a server may wait for the first item before it accepts the stream.
    async fn wait_for_work(&mut self) {
        self.wake(Instant::now());
        if self.waiting.is_empty()
            && self.has_room()
            && let Some(pending) = self.next_pending()
        {
            self.waiting.push_back(pending);
        }
        if (self.waiting.is_empty() || !self.has_room())
            && let Some(at) = self.next_wake()
        {
            sleep_until(at).await;
            self.wake(Instant::now());
        }
    }

    /// Moves delayed items whose time has come to the front of the waiting ones.
    fn wake(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.delayed = later;
        for (_, pending) in due {
            self.waiting.push_front(pending);
        }
    }

    /// Whether the window has room. Items that wait for their time count, so that a server that refuses all items for a while is not
    /// handed ever more of them, and the client does not keep ever more.
    fn has_room(&self) -> bool {
        self.open.len() + self.delayed.len() < self.options.window
    }

    /// The next items to send, as many as the window has room for.
    fn admit(&mut self) -> Result<Vec<M::Message>, ClientError> {
        let mut messages = Vec::new();
        while self.has_room() {
            let Some(pending) = self.next_pending() else { break };
            let id = pending.item.id.clone();
            let timeout = self.options.item_timeout;
            messages.push(M::message(
                id.clone(),
                timeout.and_then(|timeout| timeout.try_into().ok()),
                pending.item.request.clone(),
            ));
            if self.open.insert(id.clone(), pending).is_some() {
                return Err(ClientError::DuplicateId(id));
            }
        }
        Ok(messages)
    }

    /// Puts the unanswered items of a broken stream back among the waiting ones, in order.
    fn requeue_open(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.waiting.extend(open.into_values());
        self.waiting
            .make_contiguous()
            .sort_by_key(|pending| pending.order);
    }

    async fn one_stream(&mut self, client: &Client, server: usize) -> Result<(), StreamEnd> {
        let mut answered = false;
        // The channel never has more than the open items, so that writing never blocks the reading of answers.
        let (sender, receiver) = mpsc::channel(self.options.window);
        self.send(&sender)?;
        let opened = M::open(
            client.server(server),
            client.request(ReceiverStream::new(receiver)),
        )
        .await;
        let mut inbound = opened.map_err(|status| stream_end(&status, answered))?;
        let mut heard = Instant::now();
        loop {
            self.send(&sender)?;
            if self.is_done() {
                drop(sender);
                // Every item has its result, whatever the server sends now.
                let _ = timeout(CLOSE_LIMIT, inbound.message()).await;
                return Ok(());
            }
            let stalled = self.options.item_timeout.map(|limit| heard + limit + STALL_GRACE);
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(response)) => {
                        self.receive(response)?;
                        answered = true;
                        heard = Instant::now();
                    }
                    Ok(None) => return Err(broken(Code::Unavailable, "STREAM_ENDED_EARLY", answered)),
                    Err(status) => return Err(stream_end(&status, answered)),
                },
                () = at(self.next_wake()) => self.wake(Instant::now()),
                () = at(stalled), if !self.open.is_empty() => {
                    return Err(broken(Code::DeadlineExceeded, "STREAM_STALLED", answered));
                }
            }
        }
    }

    fn send(&mut self, sender: &mpsc::Sender<M::Message>) -> Result<(), StreamEnd> {
        for message in self.admit().map_err(StreamEnd::Fatal)? {
            // A closed channel means that the stream has ended. Reading gives the reason, and the item is sent again.
            let _ = sender.try_send(message);
        }
        Ok(())
    }

    fn receive(&mut self, reply: M::Reply) -> Result<(), StreamEnd> {
        let (id, result) = M::unpack(reply);
        let Some(mut pending) = self.open.remove(&id) else {
            let message = format!("an answer for `{id}`, which is not open");
            return Err(StreamEnd::Fatal(ClientError::Protocol(message)));
        };
        let ended = match result {
            Ok(response) => self.work.borrow_mut().ended(&id, Ok(response)),
            Err(error) => {
                pending.failed += 1;
                let delay = self.retry.delay(pending.failed, error.hint, self.jitter.next());
                match delay {
                    Some(delay) if error.is_retryable() => {
                        self.delayed.push((Instant::now() + delay, pending));
                        ControlFlow::Continue(())
                    }
                    _ => self.work.borrow_mut().ended(&id, Err(error)),
                }
            }
        };
        match ended {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StreamEnd::Stopped),
        }
    }
}

/// Waits until this moment; without one, for ever.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn broken(code: Code, reason: &str, answered: bool) -> StreamEnd {
    let message = match code {
        Code::DeadlineExceeded => "no answer came for longer than an item may take",
        _ => "the server ended the stream before all items were answered",
    };
    StreamEnd::Broken(Broken {
        error: RpcError::local(code, reason, message),
        answered,
    })
}

/// Decides whether a stream that has ended may be opened again. A status from a broken transport has a source. One that the
/// server has sent has none, and is final unless it is retryable.
fn stream_end(status: &Status, answered: bool) -> StreamEnd {
    let error = RpcError::from_status(status);
    let transport = status.source().is_some();
    if error.is_retryable() || transport {
        StreamEnd::Broken(Broken { error, answered })
    } else {
        StreamEnd::Fatal(ClientError::Rpc(error))
    }
}
