//! One call on a connection: reads its request as it arrives, and sends its answer.

use std::{
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{Request, Response};
use http_body::Body as _;
use tokio::time::timeout;

use super::{
    connections::OpenCall,
    intake::Intake,
    service::{CallService, Transport},
    source::Source,
    tenant_use::CallPlace,
};

/// Answers a call. Whatever the answer waits for, the bytes that arrive for the call are read off the connection.
pub(super) async fn exchange<S: CallService>(
    transport: Arc<Transport<S>>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    call: OpenCall,
) {
    let (mut head, body) = request.into_parts();
    let (budget, most_bytes) = transport.room(call.kind());
    let (intake, arriving) = Intake::new(Source::Stream(body), budget, most_bytes);
    let place = CallPlace::new(&transport.tenants, call.connection());
    head.extensions.insert(place.clone());
    let request = Request::from_parts(head, intake);
    tokio::select! {
        biased;
        never = arriving => match never {},
        () = answer(transport.service.clone(), request, respond, transport.times.stream_idle) => {}
    }
    place.end();
}

/// Refuses a call with the response that `response` makes for it.
pub(super) fn refuse(
    response: fn(&http::request::Parts) -> Response<()>,
    call: &http::request::Parts,
    mut respond: SendResponse<Bytes>,
) {
    let response = response(call);
    let _gone = respond.send_response(response, true);
}

/// Sends the answer. Ends early when the client is gone, and the call's work ends with it.
async fn answer<S: CallService>(
    mut service: S,
    request: Request<Intake>,
    mut respond: SendResponse<Bytes>,
    longest_stall: Duration,
) {
    let Ok(()) = poll_fn(|context| service.poll_ready(context)).await;
    let response = tokio::select! {
        biased;
        response = service.call(request) => response,
        _gone = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    let Ok(response) = response;
    let (head, mut body) = response.into_parts();
    let head = Response::from_parts(head, ());
    let is_all = body.is_end_stream();
    let Ok(mut out) = respond.send_response(head, is_all) else {
        return;
    };
    if is_all {
        return;
    }
    loop {
        let frame = tokio::select! {
            biased;
            frame = poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)) => frame,
            _gone = poll_fn(|context| out.poll_reset(context)) => return,
        };
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(_)) => return out.send_reset(Reason::INTERNAL_ERROR),
            None => {
                let _gone = out.send_data(Bytes::new(), true);
                return;
            }
        };
        match frame.into_data() {
            Ok(data) => {
                if !send(&mut out, data, longest_stall).await {
                    return;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let _gone = out.send_trailers(trailers);
                }
                return;
            }
        }
    }
}

/// Sends data as the client's flow control window allows. Returns `false` when the client is gone, or does not read for too
/// long.
async fn send(out: &mut SendStream<Bytes>, mut data: Bytes, longest_stall: Duration) -> bool {
    while !data.is_empty() {
        out.reserve_capacity(data.len());
        let capacity = match out.capacity() {
            0 => match timeout(longest_stall, capacity(out)).await {
                Ok(Some(capacity)) => capacity,
                Ok(None) => return false,
                Err(_) => {
                    out.send_reset(Reason::CANCEL);
                    return false;
                }
            },
            capacity => capacity,
        };
        let part = data.split_to(capacity.min(data.len()));
        if out.send_data(part, false).is_err() {
            return false;
        }
    }
    true
}

/// Waits until some bytes may be sent, and returns how many; `None` when the stream has ended.
fn capacity(out: &mut SendStream<Bytes>) -> impl Future<Output = Option<usize>> {
    poll_fn(|context| {
        loop {
            match std::task::ready!(out.poll_capacity(context)) {
                Some(Ok(0)) => {}
                Some(Ok(capacity)) => return std::task::Poll::Ready(Some(capacity)),
                Some(Err(_)) | None => return std::task::Poll::Ready(None),
            }
        }
    })
}
