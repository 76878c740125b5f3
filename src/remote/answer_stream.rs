//! An answer of an endpoint while it arrives.

use std::{collections::VecDeque, time::Duration};

use super::{
    answer::{AnswerReader, RemoteEvent, ReportedEngine},
    error::{RemoteError, RemotePhase},
    gate::Pass,
    sse::SseReader,
    transport::{Allowed, AnswerBody},
};

/// How long a request took so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteTimes {
    /// It waited here for its turn.
    pub queue: Duration,
    /// From there to the first piece of its answer, with the times of earlier attempts.
    pub prefill: Duration,
}

/// An open answer. Dropping it closes its connection, at which the endpoint stops computing it.
pub struct AnswerStream {
    body: Option<AnswerBody>,
    events: SseReader,
    reader: AnswerReader,
    pending: VecDeque<RemoteEvent>,
    allowed: Allowed,
    times: RemoteTimes,
    /// Given back when the answer is complete or dropped.
    pass: Option<Pass>,
}

impl AnswerStream {
    /// Waits for the first piece of an answer of at most `max_tokens` tokens. What arrives up to then is no reason not to ask
    /// again, because nobody has got anything of it.
    pub(super) async fn open(
        body: AnswerBody,
        max_tokens: usize,
        allowed: Allowed,
    ) -> Result<Self, RemoteError> {
        let mut stream = Self {
            body: Some(body),
            events: SseReader::default(),
            reader: AnswerReader::new(max_tokens),
            pending: VecDeque::new(),
            allowed,
            times: RemoteTimes::default(),
            pass: None,
        };
        while !stream.read(RemotePhase::Prefill).await? {}
        Ok(stream)
    }

    /// The same with what is known of its request.
    pub(super) fn admitted(mut self, pass: Pass, times: RemoteTimes) -> Self {
        // An answer that is complete already is not open any more.
        self.pass = self.body.is_some().then_some(pass);
        self.times = times;
        self
    }

    /// What the endpoint says of who computes the answer.
    pub fn reported(&self) -> &ReportedEngine {
        self.reader.reported()
    }

    /// How long it took until the first piece.
    pub fn times(&self) -> RemoteTimes {
        self.times
    }

    /// The next event; `None` after the last. A call that is dropped loses nothing.
    pub async fn next(&mut self) -> Result<Option<RemoteEvent>, RemoteError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            if self.body.is_none() {
                return Ok(None);
            }
            if let Err(error) = self.read(RemotePhase::Decode).await {
                self.close();
                return Err(error);
            }
        }
    }

    /// Reads what has arrived, and says whether there was an event in it, or the end.
    async fn read(&mut self, phase: RemotePhase) -> Result<bool, RemoteError> {
        let Some(body) = &mut self.body else {
            return Ok(true);
        };
        let Some(bytes) = body.next(self.allowed, phase).await? else {
            self.finish()?;
            return Ok(true);
        };
        let mut events = Vec::new();
        self.events.push(&bytes, &mut events)?;
        for data in &events {
            let text = self.reader.take(data)?;
            self.pending.extend(text.map(|text| RemoteEvent::Delta { text }));
        }
        if self.reader.is_done() {
            self.finish()?;
        }
        Ok(!events.is_empty())
    }

    fn finish(&mut self) -> Result<(), RemoteError> {
        let finished = self.reader.end()?;
        self.pending.push_back(RemoteEvent::Finished(finished));
        self.close();
        Ok(())
    }

    fn close(&mut self) {
        self.body = None;
        self.pass = None;
    }
}
