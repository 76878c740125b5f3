//! Drives one `ScoreStream` to the end: writes while it reads, matches answers by id, and takes unanswered
//! items to a new stream when one breaks. A seeded item gives the same result wherever it is computed, so
//! sending it again is safe.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    error::Error as _,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{Client, ClientError, RetryPolicy, RpcError, ServerHint};
use crate::proto::{
    ScoreRequest, ScoreResponse, ScoreStreamRequest, ScoreStreamResponse, score_stream_request::Action,
    score_stream_response::Result as Answer, scoring_service_client::ScoringServiceClient,
};

/// How long a finished stream may take to close in an orderly way before it is reset.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// On top of an item's own timeout, before a silent stream counts as broken.
const STALL_GRACE: Duration = Duration::from_secs(30);

/// One prompt to be answered and judged.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreItem {
    /// 1..=128 bytes, unique among the items of a call.
    pub id: String,
    /// What to do.
    pub request: ScoreRequest,
}

/// What became of an item.
pub type ItemResult = Result<ScoreResponse, RpcError>;

/// How a stream is driven.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// Most items that are sent and unanswered at a time; at least 1.
    pub window: usize,
    /// How long the server may take for one item from the moment it reads it. A stream that is silent for
    /// longer than this and half a minute counts as broken. Absent: no limit.
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
    /// Scores all items. `on_result` hears of each exactly once, in the order of the answers, which is not
    /// the order of the items. Items that fail with a retryable code are sent again as the policy says.
    /// Dropping the future cancels what is open.
    ///
    /// # Errors
    /// [`ClientError::Rpc`] when the server refuses the stream itself, [`ClientError::StreamGaveUp`] when it
    /// broke four times in a row without an answer in between, [`ClientError::DuplicateId`],
    /// [`ClientError::Protocol`]. Results that `on_result` has heard of stay valid.
    pub async fn score_stream(
        &self,
        items: Vec<ScoreItem>,
        options: &StreamOptions,
        on_result: &mut dyn FnMut(&str, ItemResult),
    ) -> Result<(), ClientError> {
        let mut driver = Driver::new(items, options, self.options.retry.clone())?;
        let mut failed = 0;
        while !driver.is_done() {
            driver.wait_for_work().await;
            let mut stub = ScoringServiceClient::new(self.channel.clone());
            let Err(end) = driver.one_stream(self, &mut stub, on_result).await else {
                break;
            };
            let broken = match end {
                StreamEnd::Fatal(error) => return Err(error),
                StreamEnd::Broken(broken) => broken,
            };
            driver.take_back();
            failed = if broken.answered { 1 } else { failed + 1 };
            match self
                .options
                .retry
                .delay(failed, broken.error.hint, rand::random())
            {
                Some(delay) => tokio::time::sleep(delay).await,
                None => {
                    return Err(ClientError::StreamGaveUp {
                        streams: failed,
                        unanswered: driver.waiting.len() + driver.delayed.len(),
                        last: broken.error,
                    });
                }
            }
        }
        Ok(())
    }
}

/// An item and what has happened to it so far.
#[derive(Debug, Clone)]
struct Pending {
    order: usize,
    failed: u32,
    item: ScoreItem,
}

enum StreamEnd {
    Broken(Broken),
    Fatal(ClientError),
}

/// Why a stream ended before its work did.
struct Broken {
    error: RpcError,
    /// Whether it brought at least one answer.
    answered: bool,
}

struct Driver {
    options: StreamOptions,
    retry: RetryPolicy,
    /// Not sent on the present stream, in order.
    waiting: VecDeque<Pending>,
    /// Sent and unanswered, by id.
    open: BTreeMap<String, Pending>,
    /// Failed with a retryable code; to be sent again from that moment on.
    delayed: Vec<(Instant, Pending)>,
}

impl Driver {
    fn new(items: Vec<ScoreItem>, options: &StreamOptions, retry: RetryPolicy) -> Result<Self, ClientError> {
        let mut ids = BTreeSet::new();
        if let Some(twice) = items.iter().find(|item| !ids.insert(item.id.as_str())) {
            return Err(ClientError::DuplicateId(twice.id.clone()));
        }
        let waiting = items
            .into_iter()
            .enumerate()
            .map(|(order, item)| Pending {
                order,
                failed: 0,
                item,
            })
            .collect();
        Ok(Self {
            options: StreamOptions {
                window: options.window.max(1),
                ..options.clone()
            },
            retry,
            waiting,
            open: BTreeMap::new(),
            delayed: Vec::new(),
        })
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty() && self.delayed.is_empty()
    }

    fn next_wake(&self) -> Option<Instant> {
        self.delayed.iter().map(|(at, _)| *at).min()
    }

    /// A server may wait for the first item before it accepts the stream, so there must be one.
    async fn wait_for_work(&mut self) {
        self.wake(Instant::now());
        if self.waiting.is_empty()
            && let Some(at) = self.next_wake()
        {
            sleep_until(at).await;
            self.wake(Instant::now());
        }
    }

    /// Moves delayed items whose time has come to the front.
    fn wake(&mut self, now: Instant) {
        let (due, later) = std::mem::take(&mut self.delayed)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.delayed = later;
        for (_, pending) in due {
            self.waiting.push_front(pending);
        }
    }

    /// The next items to send, as many as the window has room for.
    fn admit(&mut self) -> Vec<ScoreStreamRequest> {
        let room = self.options.window.saturating_sub(self.open.len());
        let mut requests = Vec::new();
        for pending in self.waiting.drain(..room.min(self.waiting.len())) {
            requests.push(ScoreStreamRequest {
                id: pending.item.id.clone(),
                timeout: self
                    .options
                    .item_timeout
                    .and_then(|timeout| timeout.try_into().ok()),
                action: Some(Action::Score(pending.item.request.clone())),
            });
            self.open.insert(pending.item.id.clone(), pending);
        }
        requests
    }

    /// Puts what a broken stream left unanswered back in its place.
    fn take_back(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.waiting.extend(open.into_values());
        self.waiting
            .make_contiguous()
            .sort_by_key(|pending| pending.order);
    }

    async fn one_stream(
        &mut self,
        client: &Client,
        stub: &mut ScoringServiceClient<tonic::transport::Channel>,
        on_result: &mut dyn FnMut(&str, ItemResult),
    ) -> Result<(), StreamEnd> {
        let mut answered = false;
        // Never fuller than the open items, so that writing never waits while answers pile up.
        let (sender, receiver) = mpsc::channel(self.options.window);
        self.send(&sender);
        let opened = stub
            .score_stream(client.request(ReceiverStream::new(receiver)))
            .await;
        let mut inbound = opened
            .map_err(|status| stream_end(&status, answered))?
            .into_inner();
        let mut heard = Instant::now();
        loop {
            self.send(&sender);
            if self.is_done() {
                drop(sender);
                // Whatever the server says now, every item has its result.
                let _ = timeout(CLOSE_LIMIT, inbound.message()).await;
                return Ok(());
            }
            let stalled = self.options.item_timeout.map(|limit| heard + limit + STALL_GRACE);
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(response)) => {
                        self.receive(response, on_result).map_err(StreamEnd::Fatal)?;
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

    fn send(&mut self, sender: &mpsc::Sender<ScoreStreamRequest>) {
        for request in self.admit() {
            // Closed means that the stream has ended: reading says why, and the item is taken back.
            let _ = sender.try_send(request);
        }
    }

    fn receive(
        &mut self,
        response: ScoreStreamResponse,
        on_result: &mut dyn FnMut(&str, ItemResult),
    ) -> Result<(), ClientError> {
        let Some(mut pending) = self.open.remove(&response.id) else {
            return Err(ClientError::Protocol(format!(
                "an answer for `{}`, which is not open",
                response.id
            )));
        };
        let error = match response.result {
            Some(Answer::Response(score)) => {
                on_result(&response.id, Ok(score));
                return Ok(());
            }
            Some(Answer::Error(status)) => RpcError::from_item(status),
            None => RpcError::local(
                Code::Internal,
                "EMPTY_ANSWER",
                "the answer has neither result nor error",
            ),
        };
        pending.failed += 1;
        let delay = self.retry.delay(pending.failed, error.hint, rand::random());
        match delay {
            Some(delay) if error.is_retryable() => self.delayed.push((Instant::now() + delay, pending)),
            _ => on_result(&response.id, Err(error)),
        }
        Ok(())
    }
}

/// Waits until then; for ever when there is nothing to wait for.
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

/// A status that came over a broken transport has a source; one that the server sent has none, and is taken
/// at its word unless it asks to come back.
fn stream_end(status: &Status, answered: bool) -> StreamEnd {
    let error = RpcError::from_status(status);
    let transport = status.source().is_some();
    if (error.is_retryable() && error.hint != ServerHint::Never) || transport {
        StreamEnd::Broken(Broken { error, answered })
    } else {
        StreamEnd::Fatal(ClientError::Rpc(error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(count: usize) -> Vec<ScoreItem> {
        (0..count)
            .map(|index| ScoreItem {
                id: format!("{index}"),
                request: ScoreRequest::default(),
            })
            .collect()
    }

    #[derive(Debug, Clone)]
    enum Happening {
        Send,
        Answer(usize),
        Refuse(usize),
        Break,
        Wait,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            4 => Just(Happening::Send),
            3 => (0usize..64).prop_map(Happening::Answer),
            2 => (0usize..64).prop_map(Happening::Refuse),
            1 => Just(Happening::Break),
            2 => Just(Happening::Wait),
        ]
    }

    fn response(id: &str, result: Answer) -> ScoreStreamResponse {
        ScoreStreamResponse {
            id: id.to_owned(),
            result: Some(result),
        }
    }

    fn busy() -> Answer {
        Answer::Error(crate::proto::ItemStatus {
            code: Code::ResourceExhausted as i32,
            ..crate::proto::ItemStatus::default()
        })
    }

    proptest! {
        /// Whatever happens: no more than `window` items are open, each item gets exactly one result.
        #[test]
        fn every_item_ends_once(
            count in 0usize..40,
            window in 1usize..10,
            happenings in proptest::collection::vec(happening(), 0..200),
        ) {
            let options = StreamOptions { window, item_timeout: None };
            let mut driver = Driver::new(items(count), &options, RetryPolicy::default()).expect("ids differ");
            let mut ended: BTreeMap<String, usize> = BTreeMap::new();
            let far = Instant::now() + Duration::from_secs(3600);
            let rest = std::iter::repeat_n([Happening::Wait, Happening::Send, Happening::Answer(0)], 4 * count);
            for step in happenings.into_iter().chain(rest.flatten()) {
                let mut on_result = |id: &str, _: ItemResult| *ended.entry(id.to_owned()).or_default() += 1;
                let nth = |driver: &Driver, n: usize| {
                    driver.open.keys().nth(n % driver.open.len().max(1)).cloned()
                };
                match step {
                    Happening::Send => { driver.admit(); }
                    Happening::Answer(n) => if let Some(id) = nth(&driver, n) {
                        let answer = response(&id, Answer::Response(ScoreResponse::default()));
                        driver.receive(answer, &mut on_result).expect("it is open");
                    },
                    Happening::Refuse(n) => if let Some(id) = nth(&driver, n) {
                        driver.receive(response(&id, busy()), &mut on_result).expect("it is open");
                    },
                    Happening::Break => driver.take_back(),
                    Happening::Wait => driver.wake(far),
                }
                prop_assert!(driver.open.len() <= window);
            }
            prop_assert!(driver.is_done());
            prop_assert_eq!(ended.len(), count);
            prop_assert!(ended.values().all(|&times| times == 1));
        }
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_a_broken_protocol() {
        let mut driver =
            Driver::new(items(1), &StreamOptions::default(), RetryPolicy::default()).expect("ids differ");
        driver.admit();
        let twice = response("0", Answer::Response(ScoreResponse::default()));
        assert!(driver.receive(twice.clone(), &mut |_, _| ()).is_ok());
        assert!(matches!(
            driver.receive(twice, &mut |_, _| ()),
            Err(ClientError::Protocol(_))
        ));
    }
}
