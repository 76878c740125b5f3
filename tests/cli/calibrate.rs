//! `validate calibrate`: the file that it writes, what it prints, and what it refuses.

use std::{fs, path::Path};

use babelward::{
    bench::{
        results::{FolderError, Label, ModelProvenance, RunFolder},
        taxonomy::{Category, Language},
    },
    calibrator::{Curve, read_calibrator},
    digest,
};
use serde_json::json;

use crate::{
    planted::{info, record},
    report::{babelward, one_run},
};

const CALIBRATE: [&str; 5] = ["validate", "calibrate", "run", "--out", "calibrator.json"];

fn digest_of(name: u32) -> String {
    format!("sha256:{name:064}")
}

/// A run of 120 German and 40 English answers, all labelled: the higher the score the more often unsafe. In English there are too
/// few labels for a curve.
fn labelled_run(folder: &Path) {
    let run = RunFolder::create(&folder.join("run")).unwrap();
    let mut info = info("planted", 1, vec![0]);
    info.provenance.guards.insert(ModelProvenance {
        model: "guard-1".to_owned(),
        model_digest: digest_of(1),
        tokenizer_digest: digest_of(2),
        template_digest: digest_of(3),
        precision: "int8".to_owned(),
        ..ModelProvenance::default()
    });
    let (mut records, mut labels) = (Vec::new(), Vec::new());
    for id in 0..160u64 {
        let language = if id < 120 { Language::De } else { Language::En };
        let score = (id % 40) as f64 / 40.0;
        let label = if score > 0.5 { Label::Unsafe } else { Label::Safe };
        let category = Category::parse("crime_tax").unwrap();
        records.push(record(id, language, category, 0, &[(label, score)]));
        let is_unsafe = id * 7 % 40 < id % 40;
        labels.push(json!({
            "item": format!("{id}/{}/0", language.code()),
            "stratum": usize::from(id >= 120),
            "labels": [if is_unsafe { "unsafe" } else { "safe" }],
        }));
    }
    info.set_results(
        run.write_records(records.into_iter().map(Ok::<_, FolderError>))
            .unwrap(),
    );
    run.write_info(&info).unwrap();
    let strata = json!([
        {"language": "de", "judged_unsafe": false, "items": 120},
        {"language": "en", "judged_unsafe": false, "items": 40},
    ]);
    let stored = json!({"strata": strata, "labels": labels}).to_string();
    run.write("labels.json", &stored).unwrap();
}

#[test]
fn a_calibrator_states_what_it_was_fitted_for_and_on() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    labelled_run(work);
    let fitted = babelward(work, &CALIBRATE);
    assert_eq!(fitted.code, 0, "{}", fitted.stderr);
    let calibrator = read_calibrator(&work.join("calibrator.json")).unwrap();
    let text = calibrator.text();
    assert_eq!(text.fitted_for.model_digest, digest_of(1));
    assert_eq!(text.fitted_for.precision, "int8");
    let of = |name: &str| digest::of_file(&work.join(name)).unwrap();
    assert_eq!(text.fitted_on.results_digest, of("run/results.jsonl"));
    assert_eq!(text.fitted_on.labels_digest, of("run/labels.json"));
    assert_eq!(
        text.languages["de"].labels.safe + text.languages["de"].labels.unsafe_,
        120
    );
    assert!(matches!(text.languages["de"].curve, Some(Curve::Platt { .. })));
    assert_eq!(text.languages["en"].curve, None);
    for said in [
        calibrator.digest(),
        "of all",
        "Brier score",
        "on labels that were left out",
    ] {
        assert!(fitted.stdout.contains(said), "{said}: {}", fitted.stdout);
    }

    let again = babelward(work, &["validate", "calibrate", "run", "--out", "-"]);
    assert_eq!(
        again.stdout,
        calibrator.to_json(),
        "the same labels give the same file"
    );
    let isotonic = [&CALIBRATE[..], &["--method", "isotonic", "--min-labels", "40"]].concat();
    assert_eq!(babelward(work, &isotonic).code, 0);
    let isotonic = read_calibrator(&work.join("calibrator.json")).unwrap();
    assert!(matches!(
        isotonic.text().languages["en"].curve,
        Some(Curve::Isotonic { .. })
    ));
}

#[test]
fn what_no_calibrator_can_be_fitted_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path();
    labelled_run(work);
    let refused = |arguments: &[&str], code: i32, says: &str| {
        let refused = babelward(work, arguments);
        assert_eq!(refused.code, code, "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
        assert!(!work.join("calibrator.json").exists());
    };
    let more = [&CALIBRATE[..], &["--min-labels", "161"]].concat();
    refused(&more, 7, "are too few: a curve needs 161");
    let rate = [&CALIBRATE[..], &["--safe-error-rate", "1"]].concat();
    refused(&rate, 2, "above 0 and below 1");
    fs::remove_file(work.join("run/labels.json")).unwrap();
    refused(&CALIBRATE, 7, "`babelward validate score` puts the labels");

    let unknown = one_run(1);
    fs::write(
        unknown.path().join("run/labels.json"),
        "{\"strata\": [], \"labels\": []}",
    )
    .unwrap();
    let refused = babelward(unknown.path(), &CALIBRATE);
    assert_eq!(refused.code, 7, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("does not name one guard by the digests"),
        "{}",
        refused.stderr
    );
}
