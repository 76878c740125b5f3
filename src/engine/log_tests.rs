//! What the engine logs of a single sequence.

use std::{fs, sync::Arc, time::Instant};

use super::{
    request::Priority,
    testing::{engine, greedy, request, run_until_idle},
};
use crate::backend::ModelLimits;

#[test]
fn lines_about_one_sequence_have_the_id_of_its_call() {
    let limits = ModelLimits {
        vocab_size: 11,
        context_length: 64,
        block_size: 4,
        num_blocks: 8,
        window: None,
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let logs = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(Arc::new(file.reopen().unwrap()))
        .finish();
    tracing::subscriber::with_default(logs, || {
        let mut engine = engine(limits, 8, 64);
        let now = Instant::now();
        for number in 0..3 {
            let (mut request, _recorder) = request(&[1, 2, 3, 4, number], greedy(12));
            request.priority = Priority::Batch;
            request.span = tracing::error_span!("call", id = format!("call-{number}"));
            engine.enqueue(request, now);
        }
        run_until_idle(&mut engine, now);
        assert!(engine.preemptions() > 0);
    });
    let log = fs::read_to_string(file.path()).unwrap();
    let lost: Vec<_> = log
        .lines()
        .filter(|line| line.contains("loses its KV blocks"))
        .collect();
    assert!(!lost.is_empty(), "{log}");
    for line in lost {
        assert!(line.contains("call{id=\"call-"), "{line}");
    }
}
