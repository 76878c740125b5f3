//! The driver without a network.

use proptest::prelude::*;

use super::*;
use crate::proto::{ScoreResponse, ScoreStreamResponse, score_stream_response::Result as Answer};

/// So many items; counts how often each ends.
struct Counted {
    left: std::ops::Range<usize>,
    ended: BTreeMap<String, usize>,
}

impl Counted {
    fn new(count: usize) -> Self {
        Self {
            left: 0..count,
            ended: BTreeMap::new(),
        }
    }
}

impl StreamWork<ScoreItems> for Counted {
    fn next(&mut self) -> Option<ScoreItem> {
        self.left.next().map(|index| ScoreItem {
            id: format!("{index}"),
            request: ScoreRequest::default(),
        })
    }

    fn left(&self) -> usize {
        self.left.len()
    }

    fn ended(&mut self, id: &str, _: ItemResult) -> ControlFlow<()> {
        *self.ended.entry(id.to_owned()).or_default() += 1;
        ControlFlow::Continue(())
    }
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
    /// Whatever happens: no more than `window` items are taken and without a result, each item gets exactly one result.
    #[test]
    fn every_item_ends_once(
        count in 0usize..40,
        window in 1usize..10,
        happenings in proptest::collection::vec(happening(), 0..200),
    ) {
        let options = StreamOptions { window, item_timeout: None };
        let mut work = Counted::new(count);
        let shared: SharedWork<'_, ScoreItems> = RefCell::new(&mut work);
        let mut driver = Driver::new(&shared, options, &ClientOptions::default());
        let far = Instant::now() + Duration::from_secs(3600);
        let rest = std::iter::repeat_n([Happening::Wait, Happening::Send, Happening::Answer(0)], 4 * count + 1);
        for step in happenings.into_iter().chain(rest.flatten()) {
            let nth = |driver: &Driver<ScoreItems>, n: usize| {
                driver.open.keys().nth(n % driver.open.len().max(1)).cloned()
            };
            match step {
                Happening::Send => prop_assert!(driver.admit().is_ok()),
                Happening::Answer(n) => if let Some(id) = nth(&driver, n) {
                    let answer = response(&id, Answer::Response(ScoreResponse::default()));
                    prop_assert!(driver.receive(answer).is_ok());
                },
                Happening::Refuse(n) => if let Some(id) = nth(&driver, n) {
                    prop_assert!(driver.receive(response(&id, busy())).is_ok());
                },
                Happening::Break => driver.requeue_open(),
                Happening::Wait => driver.wake(far),
            }
            prop_assert!(driver.open.len() + driver.delayed.len() + driver.waiting.len() <= window);
        }
        prop_assert!(driver.is_done());
        drop(driver);
        prop_assert_eq!(work.ended.len(), count);
        prop_assert!(work.ended.values().all(|&times| times == 1));
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_a_broken_protocol() {
    let mut work = Counted::new(1);
    let shared: SharedWork<'_, ScoreItems> = RefCell::new(&mut work);
    let mut driver = Driver::new(&shared, StreamOptions::default(), &ClientOptions::default());
    assert!(driver.admit().is_ok());
    let twice = response("0", Answer::Response(ScoreResponse::default()));
    assert!(driver.receive(twice.clone()).is_ok());
    assert!(matches!(
        driver.receive(twice),
        Err(StreamEnd::Fatal(ClientError::Protocol(_)))
    ));
}
