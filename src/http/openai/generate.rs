//! Answers a chat completion or a completion by a Generate: as one object, or as server-sent events.

use std::convert::Infallible;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::header;
use serde::Serialize;
use tonic::{Status, Streaming};

use super::{
    answer::{Answer, AnswerHead, Object},
    error::OpenAiError,
    parameters::{Delivery, ParamNames},
    response,
};
use crate::{
    http::local::LocalChannel,
    proto::{self, generate_response::Event, generation_service_client::GenerationServiceClient},
};

/// A request that has been read.
pub(super) struct Asked {
    pub(super) request: proto::GenerateRequest,
    pub(super) head: AnswerHead,
    pub(super) delivery: Delivery,
    pub(super) names: ParamNames,
}

/// Asks, and answers. The Generate is cancelled when the answer is dropped, which happens when the client goes away.
///
/// # Errors
/// Where nothing of the answer was sent yet.
pub(super) async fn answer(channel: LocalChannel, asked: Asked) -> Result<Response, OpenAiError> {
    let Asked {
        request,
        head,
        delivery,
        names,
    } = asked;
    let failed = |status: Status| OpenAiError::of_status(status, &|field| names.param(field));
    let mut client = GenerationServiceClient::new(channel).max_decoding_message_size(usize::MAX);
    let mut events = client.generate(request).await.map_err(failed)?.into_inner();
    // Whatever is refused ends before the answer has begun, and then there is a status to say it with.
    let Some(Event::Started(started)) = next(&mut events).await.map_err(failed)? else {
        return Err(OpenAiError::broken());
    };
    let answer = Answer::new(head, started);
    match delivery {
        Delivery::Whole => {
            let object = whole(answer, events).await.map_err(failed)?;
            let object = object.ok_or_else(OpenAiError::broken)?;
            Ok(response::object(&object))
        }
        Delivery::Streamed { with_usage } => {
            let pieces = pieces(answer, events, with_usage, names).map(Ok::<_, Infallible>);
            let headers = [
                (header::CONTENT_TYPE, "text/event-stream"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            Ok((headers, Body::from_stream(pieces)).into_response())
        }
    }
}

/// The next event of a call; `None` at its end.
async fn next(events: &mut Streaming<proto::GenerateResponse>) -> Result<Option<Event>, Status> {
    let response = events.message().await?;
    Ok(response.and_then(|response| response.event))
}

/// The object of the whole answer; `None` if the call has ended without an end of the answer. An error after the last event is
/// one of the answer: a guard that fails ends it so.
async fn whole(
    answer: Answer,
    mut events: Streaming<proto::GenerateResponse>,
) -> Result<Option<Object>, Status> {
    let (mut deltas, mut end) = (Vec::new(), None);
    while let Some(event) = next(&mut events).await? {
        match event {
            Event::Delta(delta) => deltas.push(delta),
            Event::Finished(finished) => end = Some(finished),
            Event::Started(_) | Event::Look(_) | Event::Retracted(_) | Event::Heartbeat(_) => {}
        }
    }
    Ok(end.map(|finished| answer.whole(deltas, &finished)))
}

/// How far a stream has got.
enum Stage {
    /// Nothing is sent.
    New,
    Open,
    Over,
}

/// The events of a stream: each piece of the answer, and `[DONE]` after the last, or an error.
fn pieces(
    answer: Answer,
    events: Streaming<proto::GenerateResponse>,
    with_usage: bool,
    names: ParamNames,
) -> impl Stream<Item = Bytes> + Send {
    let failed = move |status: Status| OpenAiError::of_status(status, &|field| names.param(field));
    stream::unfold(
        (answer, events, Stage::New),
        move |(mut answer, mut events, stage)| async move {
            let mut sent = String::new();
            match stage {
                Stage::Over => return None,
                Stage::New => {
                    if let Some(first) = answer.first(with_usage) {
                        write(&mut sent, &first);
                    }
                }
                Stage::Open => {}
            }
            let mut stage = Stage::Open;
            // Until there is something to send.
            while sent.is_empty() {
                match next(&mut events).await {
                    Ok(Some(Event::Delta(delta))) => {
                        if !delta.text.is_empty() || !delta.logprobs.is_empty() {
                            write(&mut sent, &answer.delta(delta, with_usage));
                        }
                    }
                    Ok(Some(Event::Finished(finished))) => {
                        stage = Stage::Over;
                        // After a guard that has failed, the call's error is the end of the answer.
                        match next(&mut events).await {
                            Ok(_) => {
                                write(&mut sent, &answer.last(&finished, with_usage));
                                if with_usage {
                                    write(&mut sent, &answer.usage(&finished));
                                }
                                sent.push_str("data: [DONE]\n\n");
                            }
                            Err(status) => write(&mut sent, &failed(status)),
                        }
                    }
                    // A comment, which keeps the connection in use while a guard holds text back.
                    Ok(Some(Event::Heartbeat(_))) => sent.push_str(": the guard holds text back\n\n"),
                    Ok(Some(Event::Started(_) | Event::Look(_) | Event::Retracted(_))) => {}
                    Ok(None) => {
                        stage = Stage::Over;
                        write(&mut sent, &OpenAiError::broken());
                    }
                    Err(status) => {
                        stage = Stage::Over;
                        write(&mut sent, &failed(status));
                    }
                }
            }
            Some((Bytes::from(sent), (answer, events, stage)))
        },
    )
}

/// Writes a server-sent event.
fn write(to: &mut String, object: &impl Serialize) {
    // Objects of plain fields can always be written. Without one the client would see a stream that ends early.
    if let Ok(json) = serde_json::to_string(object) {
        to.push_str("data: ");
        to.push_str(&json);
        to.push_str("\n\n");
    }
}
