//! Keeps the answers of served models as they arrive, so that a translation that was stopped goes on where it was.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use futures::StreamExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::Code;

use crate::client::{ClientError, RpcError};

/// The answers that a translation's folder holds, by the digest of what each depends on.
pub struct Journal<T> {
    file: File,
    answers: HashMap<String, T>,
}

#[derive(Serialize, Deserialize)]
struct JournalEntry<T> {
    /// Digest of what the answer depends on.
    request: String,
    #[serde(flatten)]
    answer: T,
}

/// How many requests are sent at a time, and when sending stops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Most calls that are open at a time; at least one.
    pub(super) concurrency: usize,
    /// Most requests in one call.
    pub(super) per_call: usize,
    /// How many calls may fail one after the other before the rest is not sent; never fewer than are open at a time.
    pub(super) max_failed_calls: usize,
}

/// The answers to the requests of one call, or why the call failed.
pub(super) type Answers<T> = Result<Vec<Result<T, RpcError>>, ClientError>;

impl<T: Clone + Serialize + DeserializeOwned> Journal<T> {
    /// Opens a journal, or begins one. A last line that a killed process left half-written is dropped.
    ///
    /// # Errors
    /// Errors of the file system; [`io::ErrorKind::InvalidData`] for a line that is no entry.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut answers = HashMap::new();
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        for (index, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let entry: JournalEntry<T> = serde_json::from_slice(line).map_err(|error| {
                let message = format!("line {}: {error}; remove the line or the file", index + 1);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            answers.insert(entry.request, entry.answer);
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        Ok(Self { file, answers })
    }

    fn add(&mut self, request: &str, answer: &T) -> io::Result<()> {
        let entry = JournalEntry {
            request: request.to_owned(),
            answer: answer.clone(),
        };
        let mut text = serde_json::to_vec(&entry)?;
        text.push(b'\n');
        // One write per entry: a killed process leaves whole lines and at most one that is cut off.
        let before = self.file.metadata()?.len();
        if let Err(error) = self.file.write_all(&text) {
            // A part of the line may be there, and no line may follow it. Making a file shorter needs no room on the disk.
            let _ = self.file.set_len(before);
            return Err(error);
        }
        self.answers.insert(entry.request, entry.answer);
        Ok(())
    }

    /// Answers to all requests, in their order. A request is named by the digest of what its answer depends on. `call` is given
    /// the indices of requests that the journal has no answer to, and each new answer is in the journal before `on_answer` is
    /// called with the number of answers so far.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(super) async fn complete<F: Future<Output = Answers<T>>>(
        &mut self,
        requests: &[String],
        pace: Pace,
        call: impl Fn(Vec<usize>) -> F,
        on_answer: &mut dyn FnMut(usize),
    ) -> io::Result<Vec<Result<T, ClientError>>> {
        let mut answers = Vec::new();
        answers.resize_with(requests.len(), || Err(not_sent()));
        let mut open = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            match self.answers.get(request) {
                Some(answer) => answers[at] = Ok(answer.clone()),
                None => open.push(at),
            }
        }
        let mut done = requests.len() - open.len();
        on_answer(done);
        let calls = open.chunks(pace.per_call.max(1)).map(|indices| {
            let answered = call(indices.to_vec());
            async move { (indices, answered.await) }
        });
        let concurrency = pace.concurrency.max(1);
        let mut calls = futures::stream::iter(calls).buffer_unordered(concurrency);
        let mut failed_in_a_row = 0;
        while let Some((indices, answered)) = calls.next().await {
            match answered {
                Ok(answered) => {
                    failed_in_a_row = 0;
                    for (&at, answer) in indices.iter().zip(answered) {
                        if let Ok(answer) = &answer {
                            self.add(&requests[at], answer)?;
                        }
                        answers[at] = answer.map_err(ClientError::Rpc);
                    }
                }
                Err(error) => {
                    failed_in_a_row += 1;
                    if let Some(&first) = indices.first() {
                        answers[first] = Err(error);
                    }
                }
            }
            done += indices.len();
            on_answer(done);
            if failed_in_a_row >= concurrency.max(pace.max_failed_calls) {
                break;
            }
        }
        Ok(answers)
    }
}

fn not_sent() -> ClientError {
    let reason = "it was not sent, because calls before it failed";
    ClientError::Rpc(RpcError::local(Code::Cancelled, "NOT_SENT", reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::translation::served::Answer;

    #[test]
    fn a_journal_survives_a_cut_line_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("served.jsonl");
        let answer = |text: &str| Answer {
            text: text.to_owned(),
            truncated: false,
        };
        let mut journal = Journal::open(&path).unwrap();
        journal.add("sha256:1", &answer("eins")).unwrap();
        journal.add("sha256:2", &answer("zwei")).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(journal.answers.len(), lines);
            journal.add("sha256:3", &answer("drei")).unwrap();
            drop(journal);
            let again: Journal<Answer> = Journal::open(&path).unwrap();
            assert_eq!(again.answers.len(), lines + 1);
        }
        fs::write(&path, "nonsense\n").unwrap();
        let error = Journal::<Answer>::open(&path).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("line 1: "), "{error}");
    }
}
