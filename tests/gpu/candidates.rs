//! The most likely tokens, read on the card.

use babelward::backend::{
    Backend as _, CandidateFilter, Candidates, LanguageModel, MOST_CANDIDATES, Reading, Readout,
};

use crate::{
    card::EmulatedCard,
    mixed_file,
    models::{self, ENOUGH, Part, options},
    queue::Timing,
};

fn filter(temperature: f64, top_k: usize, top_p: f64) -> Option<CandidateFilter> {
    Some(CandidateFilter {
        temperature,
        top_k,
        top_p,
    })
}

/// What is read after these tokens by sequences that are equal apart from that, and the row that they read.
fn readings(
    model: &mut dyn LanguageModel,
    tokens: &[u32],
    context: usize,
    readouts: &[Readout],
) -> (Vec<f32>, Vec<Reading>) {
    let all = [&[Readout::Logits], readouts].concat();
    let blocks: Vec<u32> = (0..all.len() as u32).collect();
    let part = |(blocks, readout): (_, &Readout)| Part {
        tokens,
        context,
        blocks,
        readout: readout.clone(),
    };
    let parts: Vec<_> = blocks.chunks(1).zip(&all).map(part).collect();
    let mut output = models::step(model, &parts);
    let width = model.limits().vocab_size;
    let row = output.row(0, width).unwrap();
    for reading in &output.readings {
        if let Reading::Logits { row: other } = reading {
            assert_eq!(output.row(*other, width), Some(row));
        }
    }
    (row.to_vec(), output.readings.split_off(1))
}

/// In a prompt's step, and in steps that are recorded and carried out again.
#[test]
fn the_most_likely_tokens_are_those_of_the_row_and_rows_come_where_they_do_not_suffice() {
    let folder = tempfile::tempdir().unwrap();
    let path = mixed_file::write(folder.path());
    let backend = models::backend(EmulatedCard::new(Timing::Late, ENOUGH));
    let mut model = backend.load(&path, &[], &options()).unwrap().model;
    let few = [
        (filter(0.7, 40, 1.0), 0.7),
        (filter(0.05, 0, 0.9), 0.05),
        (None, 1.0),
        (filter(1.5, 255, 0.5), 1.5),
    ];
    let many = [filter(1.0, 0, 0.999), filter(1.0, 256, 1.0)];
    let filters = few.iter().map(|(filter, _)| *filter).chain(many);
    let readouts: Vec<_> = filters.map(|filter| Readout::Candidates { filter }).collect();
    let steps: [(&[u32], usize); 4] = [(&[7, 300, 999, 41, 5], 0), (&[17], 5), (&[9], 6), (&[512], 7)];
    for (tokens, context) in steps {
        let (row, found) = readings(&mut *model, tokens, context, &readouts);
        for ((filter, temperature), found) in few.iter().zip(&found) {
            let Reading::Candidates(found) = found else {
                panic!("{filter:?}: {found:?}");
            };
            let expected = Candidates::of_row(&row, MOST_CANDIDATES, 1.0 / temperature).unwrap();
            assert_eq!(found.tokens, expected.tokens);
            assert!((found.log_sum_exp - expected.log_sum_exp).abs() < 1e-11);
            assert!((found.weight / expected.weight - 1.0).abs() < 1e-11);
        }
        for found in &found[few.len()..] {
            assert!(matches!(found, Reading::Logits { .. }), "{found:?}");
        }
    }
}
