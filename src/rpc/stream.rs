//! Drives the three `*Stream` calls: items with the client's ids, which are answered as they complete.
//!
//! One task for each stream (that of its HTTP/2 response) reads items, polls the open ones and writes answers. It reads only
//! while fewer than the limit are open, so a client that sends faster than the models answer is slowed down by HTTP/2 flow
//! control: what it has sent ahead waits in the transport, still encoded (see [`super::transport`]).

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    Stream, StreamExt as _,
    future::{AbortHandle, Abortable},
    stream::{self, BoxStream, SelectAll},
};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    call::{Call, ReceivedMessage},
    error::ServiceError,
    record::Record,
    sequence::{Shared, WorkContext},
    transport::HeldBytes,
    validate,
};
use crate::{engine::Priority, proto::ItemStatus};

/// The answers to one item. The item ends when this stream ends, or at the first error.
pub(crate) type ItemStream<O> = BoxStream<'static, Result<O, ServiceError>>;

/// What a client requests for an item.
pub(crate) enum Action<W> {
    Start(W),
    Cancel,
}

/// A message of any of the three streams.
pub(crate) struct Envelope<W> {
    pub(crate) id: String,
    /// `None` when the client set no action, or one that this version does not know.
    pub(crate) action: Option<Action<W>>,
    pub(crate) timeout: Option<prost_types::Duration>,
}

/// What differs between the three streams.
pub(crate) trait StreamRpc: Send + 'static {
    type Request: prost::Message + Default + Send + 'static;
    type Response: Send + 'static;
    type Work: Send + 'static;
    type Output: Send + 'static;

    fn unpack(request: Self::Request) -> Envelope<Self::Work>;
    /// Checks and answers one item.
    fn run(context: WorkContext, work: Self::Work) -> ItemStream<Self::Output>;
    fn pack(id: String, result: Result<Self::Output, ItemStatus>) -> Self::Response;
}

type Responses<R> = tonic::codegen::BoxStream<<R as StreamRpc>::Response>;

/// Serves one stream.
pub(crate) fn drive<R: StreamRpc>(
    shared: &Arc<Shared>,
    request: Request<Streaming<R::Request>>,
) -> Result<Response<Responses<R>>, Status> {
    let call = Call::of(&request)?;
    shared.admit().map_err(|error| call.fail(&error))?;
    let driver = Driver::<R> {
        shared: Arc::clone(shared),
        call,
        incoming: Some(request.into_inner()),
        open: HashMap::new(),
        items: SelectAll::new(),
        next_serial: 0,
        draining: false,
        idle: Box::pin(sleep(shared.times.stream_idle)),
    };
    let call = driver.call.clone();
    let responses = stream::unfold(Some(driver), |driver| async move {
        let mut driver = driver?;
        match driver.next().await {
            Step::Send(response) => Some((Ok(response), Some(driver))),
            Step::Fail(status) => Some((Err(status), None)),
            Step::End => None,
        }
    });
    Ok(call.stream(responses))
}

struct Driver<R: StreamRpc> {
    shared: Arc<Shared>,
    call: Call,
    /// `None` after the client has closed its half of the stream.
    incoming: Option<Streaming<R::Request>>,
    open: HashMap<String, OpenItem>,
    items: SelectAll<Item<R::Output>>,
    next_serial: u64,
    draining: bool,
    /// Runs while no item is open, from the last message or answer on.
    idle: Pin<Box<Sleep>>,
}

/// An open item. An id may be used again after its item has been answered, so each item has a serial number too.
struct OpenItem {
    serial: u64,
    abort: AbortHandle,
    record: Arc<Record>,
    /// Its bytes of the memory for requests.
    _held: Option<HeldBytes>,
}

/// An item that has arrived.
struct NewItem<W> {
    id: String,
    /// Bytes of its encoded message.
    size: usize,
    received: Option<ReceivedMessage>,
    action: Option<Action<W>>,
    timeout: Option<prost_types::Duration>,
}

enum Step<R> {
    Send(R),
    Fail(Status),
    End,
}

impl<R: StreamRpc> Driver<R> {
    async fn next(&mut self) -> Step<R::Response> {
        loop {
            if self.open.is_empty() && (self.incoming.is_none() || self.draining) {
                self.call.succeed();
                return Step::End;
            }
            let full = self.open.len() >= self.shared.limits.stream_open_items;
            let is_idle = self.open.is_empty();
            let step = tokio::select! {
                Some(event) = self.items.next() => {
                    let answer = self.on_item(event).map(Step::Send);
                    self.restart_idle_time();
                    answer
                }
                message = receive(&mut self.incoming), if self.incoming.is_some() && !full => {
                    match message {
                        Ok(Some(request)) => {
                            self.restart_idle_time();
                            self.on_request(request)
                        }
                        Ok(None) => {
                            self.incoming = None;
                            None
                        }
                        Err(status) => {
                            self.abandon();
                            self.call.end_with(&status);
                            Some(Step::Fail(status))
                        }
                    }
                }
                () = self.call.deadline.passed() => {
                    Some(self.fail(&ServiceError::Deadline { stage: crate::engine::Stage::Queue }))
                }
                () = &mut self.idle, if is_idle => {
                    let limit = self.shared.times.stream_idle;
                    Some(self.fail(&ServiceError::StreamIdle { limit }))
                }
                () = self.shared.draining.cancelled(), if !self.draining => {
                    self.draining = true;
                    None
                }
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn restart_idle_time(&mut self) {
        // The time only runs while no item is open.
        if self.open.is_empty() {
            self.idle
                .as_mut()
                .reset(Instant::now() + self.shared.times.stream_idle);
        }
    }

    /// Ends the call with an error.
    fn fail(&mut self, error: &ServiceError) -> Step<R::Response> {
        self.abandon();
        Step::Fail(self.call.fail(error))
    }

    /// Drops all open items, so that they are counted before their call is.
    fn abandon(&mut self) {
        self.open.clear();
        self.items = SelectAll::new();
    }

    fn on_item(&mut self, event: ItemEvent<R::Output>) -> Option<R::Response> {
        let ItemEvent { id, serial, outcome } = event;
        // A cancelled item has been answered already.
        if self.open.get(&id).is_none_or(|open| open.serial != serial) {
            return None;
        }
        match outcome {
            Outcome::Output(output) => Some(R::pack(id, Ok(output))),
            Outcome::Failed(error) => {
                if let Some(open) = self.open.remove(&id) {
                    open.record.fail(&error);
                }
                Some(R::pack(id, Err(error.to_item())))
            }
            Outcome::Ended => {
                if let Some(open) = self.open.remove(&id) {
                    open.record.finish(Code::Ok);
                }
                None
            }
        }
    }

    fn on_request(&mut self, request: R::Request) -> Option<Step<R::Response>> {
        let size = prost::Message::encoded_len(&request);
        let received = self.call.take_received();
        let Envelope { id, action, timeout } = R::unpack(request);
        if matches!(action, Some(Action::Cancel)) {
            // For an id that is unknown, or answered already, there is nothing to send.
            let open = self.open.remove(&id)?;
            open.abort.abort();
            open.record.fail(&ServiceError::ClientCancelled);
            return Some(Step::Send(R::pack(
                id,
                Err(ServiceError::ClientCancelled.to_item()),
            )));
        }
        if self.open.contains_key(&id) {
            // The client could not tell an error for this id from one of the item that is open, so the stream ends.
            let error = ServiceError::ItemIdOpen {
                field: "id".to_owned(),
            };
            return Some(self.fail(&error));
        }
        if let Err(error) = self.call.check_credential() {
            return Some(self.fail(&error));
        }
        let item = NewItem {
            id: id.clone(),
            size,
            received,
            action,
            timeout,
        };
        match self.start(item) {
            Ok(()) => None,
            Err(error) => {
                Record::item(&self.call.record, self.next_serial, self.call.deadline).fail(&error);
                self.next_serial += 1;
                Some(Step::Send(R::pack(id, Err(error.to_item()))))
            }
        }
    }

    /// Checks an item and starts its work.
    fn start(&mut self, item: NewItem<R::Work>) -> Result<(), ServiceError> {
        self.shared.admit()?;
        validate::item_id(&item.id, &self.shared.limits)?;
        let held = match item.received {
            Some(ReceivedMessage {
                refusal: Some(error), ..
            }) => return Err(error),
            Some(ReceivedMessage { held, .. }) => Some(held),
            None => None,
        };
        validate::message_size(item.size, &self.shared.limits)?;
        let deadline = validate::item_timeout(item.timeout.as_ref())?.min(self.call.deadline);
        let Some(Action::Start(work)) = item.action else {
            return Err(ServiceError::field("action", "is required"));
        };
        self.shared.count_request(&self.call.tenant)?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let record = Record::item(&self.call.record, serial, deadline);
        let context = WorkContext {
            deadline,
            ..WorkContext::of(&self.shared, &self.call, Priority::Batch).item(&record)
        };
        let (abort, registration) = AbortHandle::new_pair();
        self.items.push(Item {
            id: item.id.clone(),
            serial,
            answers: Some(Abortable::new(R::run(context, work), registration)),
        });
        self.open.insert(
            item.id,
            OpenItem {
                serial,
                abort,
                record,
                _held: held,
            },
        );
        Ok(())
    }
}

/// The next message. Never resolves after the client has closed its half of the stream.
async fn receive<T>(incoming: &mut Option<Streaming<T>>) -> Result<Option<T>, Status> {
    match incoming {
        Some(incoming) => incoming.message().await,
        None => std::future::pending().await,
    }
}

/// The answers to an item with its id, followed by one [`Outcome::Failed`] or [`Outcome::Ended`].
struct Item<O> {
    id: String,
    serial: u64,
    answers: Option<Abortable<ItemStream<O>>>,
}

struct ItemEvent<O> {
    id: String,
    serial: u64,
    outcome: Outcome<O>,
}

enum Outcome<O> {
    Output(O),
    Failed(ServiceError),
    Ended,
}

impl<O> Stream for Item<O> {
    type Item = ItemEvent<O>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(answers) = &mut self.answers else {
            return Poll::Ready(None);
        };
        let outcome = match std::task::ready!(answers.poll_next_unpin(context)) {
            Some(Ok(output)) => Outcome::Output(output),
            Some(Err(error)) => {
                self.answers = None;
                Outcome::Failed(error)
            }
            None => {
                self.answers = None;
                Outcome::Ended
            }
        };
        Poll::Ready(Some(ItemEvent {
            id: self.id.clone(),
            serial: self.serial,
            outcome,
        }))
    }
}
