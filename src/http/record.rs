//! Counts and logs what becomes no call: requests that a door refuses, answers by itself, or whose caller is gone before. Whatever
//! becomes a call is counted and logged there, so each request is counted once.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
    routing::MethodRouter,
};
use tonic::Code;

use super::status::Refused;
use crate::rpc::{CallsMade, Door, LocalCaller, Reason};

/// What the requests of a path count as.
#[derive(Clone)]
struct CountedAs {
    door: Door,
    /// The path of the call that they become.
    call: Arc<str>,
}

/// The same handlers, whose requests all count: as calls with the path `call` where they become none.
pub(super) fn recorded<S>(handlers: MethodRouter<S>, door: Door, call: &str) -> MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    let counted_as = CountedAs {
        door,
        call: Arc::from(call),
    };
    handlers.route_layer(middleware::from_fn_with_state(counted_as, record))
}

async fn record(State(counted_as): State<CountedAs>, mut request: Request, next: Next) -> Response {
    let made = CallsMade::default();
    request.extensions_mut().insert(made.clone());
    let mut open = OpenRequest {
        caller: LocalCaller::of(request.headers(), request.extensions(), None),
        counted_as,
        made,
        ending: Refused {
            code: Code::Cancelled,
            reason: Some(Reason::ClientCancelled),
        },
    };
    let response = next.run(request).await;
    open.ending = match response.extensions().get::<Refused>() {
        Some(refused) => *refused,
        None => Refused {
            code: Code::Ok,
            reason: None,
        },
    };
    response
}

/// A request that may become calls. It is recorded when this is dropped, if it has become none.
struct OpenRequest {
    caller: Option<LocalCaller>,
    counted_as: CountedAs,
    made: CallsMade,
    ending: Refused,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if let Some(caller) = &self.caller
            && !self.made.any()
        {
            let (CountedAs { door, call }, Refused { code, reason }) = (&self.counted_as, self.ending);
            caller.record(*door, call, code, reason);
        }
    }
}
