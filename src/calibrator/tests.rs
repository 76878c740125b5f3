use super::*;
use crate::random::Random;

fn share(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 / (1u64 << 53) as f64
}

fn labelled(score: f64, is_unsafe: bool, weight: f64) -> LabelledScore {
    LabelledScore {
        score,
        is_unsafe,
        weight,
    }
}

#[derive(serde::Deserialize)]
struct Golden {
    scores: Vec<f64>,
    labels: Vec<u8>,
    weights: Vec<f64>,
    at: Vec<f64>,
    isotonic: Vec<f64>,
    slope: f64,
    intercept: f64,
}

/// The expected values are those of scikit-learn, written by `tests/golden/calibrators.py`.
#[test]
fn both_curves_equal_scikit_learns() {
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../../tests/golden/calibrators.json")).unwrap();
    assert_eq!(golden.len(), 3);
    for case in golden {
        let rows = case.scores.iter().zip(&case.labels).zip(&case.weights);
        let texts: Vec<_> = rows
            .map(|((score, label), weight)| labelled(*score, *label == 1, *weight))
            .collect();
        let isotonic = Curve::Isotonic {
            points: isotonic::fit(&texts),
        };
        for (at, wanted) in case.at.iter().zip(&case.isotonic) {
            let found = isotonic.probability(*at);
            assert!((found - wanted).abs() < 1e-9, "{at}: {found} {wanted}");
        }
        // Theirs stops when it is this near.
        let line = platt::fit(&texts);
        assert!((line.slope - case.slope).abs() < 1e-4, "{line:?} {}", case.slope);
        assert!(
            (line.intercept - case.intercept).abs() < 1e-4,
            "{line:?} {}",
            case.intercept
        );
    }
}

#[test]
fn labels_that_scores_tell_apart_leave_the_curve_finite() {
    let texts: Vec<_> = (0..40)
        .map(|at| labelled(if at < 20 { 0.0 } else { 1.0 }, at >= 20, 1.0))
        .collect();
    let platt::Line { slope, intercept } = platt::fit(&texts);
    assert!(
        slope > 0.0 && slope.is_finite() && intercept.abs() < 1e-6,
        "{slope} {intercept}"
    );
    let curve = Curve::Platt { slope, intercept };
    // Platt's targets: 21 of 22, and 1 of 22.
    assert!((curve.probability(1.0) - 21.0 / 22.0).abs() < 1e-6);
    assert!((curve.probability(0.0) - 1.0 / 22.0).abs() < 1e-6);
}

/// Scores of unsafe texts are higher, and less so in every further language. One score in five is rounded, so that there are ties.
fn population(random: &mut Random, language: usize, unsafe_share: f64) -> LabelledText {
    let is_unsafe = share(random) < unsafe_share;
    let draws = 3 - language.min(2);
    let mut score = share(random);
    for _ in 1..draws {
        let other = share(random);
        score = if is_unsafe {
            score.max(other)
        } else {
            score.min(other)
        };
    }
    if random.below(5) == 0 {
        score = (score * 10.0).round() / 10.0;
    }
    LabelledText {
        language: ["de", "en", "fr"][language].to_owned(),
        score: labelled(score, is_unsafe, 1.0),
    }
}

const OPTIONS: FitOptions = FitOptions {
    method: CalibrationMethod::Platt,
    min_labels: MIN_LABELS,
    error_rates: ErrorRates {
        safe: 0.1,
        unsafe_: 0.05,
    },
};

fn fitted_for() -> FittedFor {
    FittedFor {
        model_digest: "sha256:1".to_owned(),
        precision: "int8".to_owned(),
        ..FittedFor::default()
    }
}

fn fitted(texts: &[LabelledText], options: FitOptions) -> Result<Calibrator, FitError> {
    fit(fitted_for(), FittedOn::default(), texts, options)
}

fn texts(seed: u64, counts: [usize; 3]) -> Vec<LabelledText> {
    let mut random = Random::new(seed);
    let mut texts = Vec::new();
    for (language, count) in counts.into_iter().enumerate() {
        texts.extend((0..count).map(|_| population(&mut random, language, 0.4)));
    }
    texts
}

#[test]
fn probabilities_never_fall_and_mean_what_they_say() {
    for method in [CalibrationMethod::Platt, CalibrationMethod::Isotonic] {
        let calibrator = fitted(&texts(3, [2000, 2000, 2000]), FitOptions { method, ..OPTIONS }).unwrap();
        for language in [None, Some("de"), Some("en"), Some("fr")] {
            let mut last = 0.0;
            for step in 0..=1000 {
                let found = calibrator.calibrate(f64::from(step) / 1000.0, language);
                assert!(
                    (last..=1.0).contains(&found.probability),
                    "{method:?} {language:?} {step}"
                );
                last = found.probability;
            }
        }
        // Other texts of the same kind: of those with a probability near p, a share near p is unsafe.
        let mut bins = [(0.0, 0.0, 0u32); 5];
        for text in texts(4, [4000, 0, 0]) {
            let probability = calibrator.calibrate(text.score.score, Some("de-AT")).probability;
            let bin = &mut bins[((probability * 5.0) as usize).min(4)];
            bin.0 += probability;
            bin.1 += f64::from(u8::from(text.score.is_unsafe));
            bin.2 += 1;
        }
        for (probabilities, unsafe_labels, count) in bins {
            let count = f64::from(count);
            // Four standard errors, and what the curve may be off by itself.
            let allowed = 4.0 * (0.25 / count).sqrt() + 0.06;
            assert!(
                (probabilities - unsafe_labels).abs() / count < allowed,
                "{method:?} {bins:?}"
            );
        }
    }
}

#[test]
fn a_language_with_few_labels_has_the_curve_of_all_and_its_own_bounds() {
    let calibrator = fitted(&texts(5, [300, 40, 0]), OPTIONS).unwrap();
    let german = calibrator.calibrate(0.5, Some("de"));
    assert_eq!(german.curve_language.as_deref(), Some("de"));
    let english = calibrator.calibrate(0.5, Some("en-GB"));
    let unknown = calibrator.calibrate(0.5, None);
    assert_eq!(
        (english.curve_language, english.probability),
        (None, unknown.probability)
    );
    let known = &calibrator.text().languages;
    assert_ne!(known["en"].bounds, calibrator.text().pooled.bounds);
    assert_eq!(known["en"].curve, None);
    for score in [0.0, 0.5, 1.0] {
        assert_eq!(
            calibrator.calibrate(score, Some("fr")).set,
            PredictionSet::Both,
            "nothing is known of French"
        );
    }
}

#[test]
fn what_cannot_be_fitted_says_why() {
    let few = fitted(&texts(6, [60, 30, 0]), OPTIONS).unwrap_err();
    assert!(matches!(few, FitError::TooFewLabels { needed: 100, .. }), "{few}");
    let mut lopsided = texts(6, [300, 0, 0]);
    let mut seen = 0;
    for text in &mut lopsided {
        seen += u32::from(text.score.is_unsafe);
        text.score.is_unsafe &= seen < 10;
    }
    assert!(matches!(
        fitted(&lopsided, OPTIONS),
        Err(FitError::TooFewLabels { unsafe_: 9, .. })
    ));
    let mut turned = texts(7, [600, 0, 0]);
    for text in &mut turned {
        text.score.is_unsafe = !text.score.is_unsafe;
    }
    assert_eq!(fitted(&turned, OPTIONS).unwrap_err(), FitError::NotRising);
    let mut rates = OPTIONS;
    rates.error_rates.safe = 1.0;
    assert_eq!(
        fitted(&texts(6, [300, 0, 0]), rates).unwrap_err(),
        FitError::ErrorRate(1.0)
    );
}

/// The p-value of the definition, counted one by one.
fn p_value(texts: &[LabelledScore], is_unsafe: bool, score: f64) -> f64 {
    let same: Vec<_> = texts.iter().filter(|text| text.is_unsafe == is_unsafe).collect();
    let stranger = same.iter().filter(|text| {
        if is_unsafe {
            text.score <= score
        } else {
            text.score >= score
        }
    });
    (stranger.count() + 1) as f64 / (same.len() + 1) as f64
}

#[test]
fn sets_are_those_of_the_definition() {
    let mut random = Random::new(8);
    for round in 0..300 {
        let count = 1 + random.below(60);
        let texts: Vec<_> = (0..count)
            .map(|_| population(&mut random, round % 3, 0.4).score)
            .collect();
        // Also rates that are a whole number of texts, where the last digit counts.
        let rates = ErrorRates {
            safe: [0.05, 0.1, 0.2, 0.5][random.below(4)],
            unsafe_: (1 + random.below(9)) as f64 / 10.0,
        };
        let bounds = PredictionBounds::of(&texts, rates);
        let scores = texts
            .iter()
            .map(|text| text.score)
            .chain((0..20).map(|at| f64::from(at) / 20.0));
        for score in scores {
            let safe = p_value(&texts, false, score) > rates.safe;
            let is_unsafe = p_value(&texts, true, score) > rates.unsafe_;
            let wanted = match (safe, is_unsafe) {
                (true, false) => PredictionSet::Safe,
                (false, true) => PredictionSet::Unsafe,
                (true, true) => PredictionSet::Both,
                (false, false) => PredictionSet::Neither,
            };
            assert_eq!(bounds.set(score), wanted, "{score} {rates:?} {texts:?}");
        }
    }
}

#[test]
fn few_labels_leave_nothing_out() {
    // 1 / (n + 1) > 0.05 for n < 19, and 1 / 20 = 0.05 is not.
    for (count, always) in [(0, true), (18, true), (19, false)] {
        let texts: Vec<_> = (0..count)
            .map(|at| labelled(0.5 + f64::from(at) / 100.0, true, 3.7))
            .collect();
        let bounds = PredictionBounds::of(&texts, OPTIONS.error_rates);
        assert_eq!(bounds.unsafe_from.is_none(), always, "{count}");
        assert_eq!(bounds.safe_to, None);
    }
}

/// A text with a large weight stands for many that were not drawn.
#[test]
fn weights_count() {
    let mut texts: Vec<_> = (0..60)
        .map(|at| labelled(0.4 + f64::from(at) / 100.0, true, 1.0))
        .collect();
    let equal = PredictionBounds::of(&texts, OPTIONS.error_rates)
        .unsafe_from
        .unwrap();
    texts[0].weight = 20.0;
    let heavy = PredictionBounds::of(&texts, OPTIONS.error_rates).unsafe_from;
    assert!(
        heavy.is_none(),
        "one of {equal} cannot be left out: the new one may be as heavy"
    );
    texts.extend((0..2000).map(|_| labelled(0.9, true, 1.0)));
    let many = PredictionBounds::of(&texts, OPTIONS.error_rates)
        .unsafe_from
        .unwrap();
    assert!(many > equal, "{many} {equal}");
}

#[test]
fn a_file_is_read_as_it_was_written_and_refused_when_it_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calibrator.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_calibrator(&path)
    };
    for method in [CalibrationMethod::Platt, CalibrationMethod::Isotonic] {
        let calibrator = fitted(&texts(9, [400, 200, 20]), FitOptions { method, ..OPTIONS }).unwrap();
        let json = calibrator.to_json();
        assert_eq!(read(&json).unwrap(), calibrator);
        let altered = json.replace("sha256:1", "sha256:2");
        assert!(matches!(read(&altered), Err(CalibratorError::Altered { .. })));
        let other = json.replace("babelward-calibrator/2", "babelward-calibrator/1");
        assert!(matches!(read(&other), Err(CalibratorError::Format { .. })));
        assert!(matches!(
            read(&json[..40]),
            Err(CalibratorError::Malformed { .. })
        ));
    }
    let mut text = fitted(&texts(9, [400, 0, 0]), OPTIONS).unwrap().text().clone();
    text.pooled.curve = Curve::Platt {
        slope: -1.0,
        intercept: 0.0,
    };
    let falling = Calibrator::fitted(text).to_json();
    let error = read(&falling).unwrap_err().to_string();
    assert!(error.contains("pooled: platt must have a slope"), "{error}");
    let missing = read_calibrator(&folder.path().join("none.json"));
    assert!(matches!(missing, Err(CalibratorError::Unreadable { .. })));
}

#[test]
fn what_is_not_as_it_was_is_named() {
    let fitted = fitted_for();
    assert!(fitted.differences(&fitted_for()).is_empty());
    let other = FittedFor {
        model_digest: "sha256:2".to_owned(),
        precision: "bf16".to_owned(),
        judged: JudgedSide::Prompt,
        ..fitted_for()
    };
    let differences = fitted.differences(&other);
    let names: Vec<_> = differences.iter().map(|one| one.what).collect();
    assert_eq!(names, ["model_digest", "precision", "judged"]);
    assert_eq!(
        (differences[1].fitted.as_str(), differences[1].has.as_str()),
        ("int8", "bf16")
    );
    assert_eq!(
        (differences[2].fitted.as_str(), differences[2].has.as_str()),
        ("answer", "prompt")
    );
}
