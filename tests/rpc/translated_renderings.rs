//! ClassifyRenderings whose further renderings the server translates. The translator is the scripted target: `[say X]` in a text is
//! translated as X.

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    engine::Clock,
    proto::{
        self, Label, QualityMetric, Role, TranslatedText, TranslationOptions, TranslationQuality,
        content_part::Part, rendering_result::Result as RenderingResult,
    },
    registry::{KvSize, MemoryOptions, Registry},
    rpc::{Security, ServerOptions},
};
use tonic::Code;

use crate::{
    credentials::{KeyFile, checked, with_key},
    estimators::case,
    quality::KIWI,
    quality_held,
    rig::{self, BASE, GUARD, Rig, Setup, TARGET, classify, item_reason, message, reason, violated},
    scripted::Gate,
};

/// Its translation is "[unsafe] Brot", and it is safe itself.
const HIDDEN: &str = "[say [un[cut]safe] Brot]";

fn into(languages: &[&str]) -> TranslationOptions {
    TranslationOptions {
        languages: languages.iter().map(|tag| (*tag).to_owned()).collect(),
        max_new_tokens: 32,
        ..TranslationOptions::default()
    }
}

fn english(content: &str) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        language: "en".to_owned(),
        ..classify(&[content])
    }
}

fn request(
    renderings: Vec<proto::ClassifyRequest>,
    translation: TranslationOptions,
) -> proto::ClassifyRenderingsRequest {
    proto::ClassifyRenderingsRequest {
        renderings,
        translation: Some(translation),
        ..proto::ClassifyRenderingsRequest::default()
    }
}

async fn judge(rig: &Rig, request: proto::ClassifyRenderingsRequest) -> proto::ClassifyRenderingsResponse {
    let answer = rig.safety().await.classify_renderings(request).await;
    answer.unwrap().into_inner()
}

fn verdict(result: &proto::RenderingResult) -> &proto::Verdict {
    match &result.result {
        Some(RenderingResult::Response(response)) => response.verdict.as_ref().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn failure(result: &proto::RenderingResult, code: Code) -> String {
    match &result.result {
        Some(RenderingResult::Error(error)) => item_reason(error, code),
        other => panic!("{other:?}"),
    }
}

fn texts(result: &proto::RenderingResult) -> &[TranslatedText] {
    &result.translated.as_ref().unwrap().texts
}

#[tokio::test(flavor = "multi_thread")]
async fn translations_are_judged_and_told() {
    let rig = Rig::start().await;
    let answer = judge(&rig, request(vec![english(HIDDEN)], into(&["de", "pt-BR"]))).await;
    let languages = answer.results.iter().map(|result| result.language.as_str());
    assert_eq!(languages.collect::<Vec<_>>(), ["en", "de", "pt-BR"]);
    assert_eq!((answer.label(), answer.dissent), (Label::Unsafe, vec![0]));
    assert_eq!(answer.results[0].translated, None);
    assert_eq!(verdict(&answer.results[0]).label(), Label::Safe);
    let alone = rig.safety().await.classify(classify(&["[unsafe] Brot"])).await;
    let alone = alone.unwrap().into_inner().verdict.unwrap();
    for result in &answer.results[1..] {
        let [text] = texts(result) else {
            panic!("{result:?}")
        };
        assert_eq!((text.text.as_str(), text.is_cut_off), ("[unsafe] Brot", false));
        assert_eq!((text.message, text.part, text.quality_score), (0, None, None));
        assert!(text.usage.unwrap().completion_tokens > 1);
        let translated = result.translated.as_ref().unwrap();
        let provenance = translated.provenance.as_ref().unwrap();
        assert_eq!((provenance.model.as_str(), provenance.seed), (TARGET, None));
        assert_eq!(translated.quality_provenance, None);
        let verdict = verdict(result);
        assert_eq!(
            (verdict.label(), verdict.unsafe_score),
            (Label::Unsafe, alone.unsafe_score)
        );
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_is_translated_by_itself_and_instructions_and_calls_stay() {
    let rig = Rig::start().await;
    let part = |text: &str| proto::ContentPart {
        part: Some(Part::Text(text.to_owned())),
    };
    let mut asked = message(Role::User, "");
    asked.parts = vec![part("[say Frage]"), part(" \n"), part("[say und noch eine]")];
    let mut answered = message(Role::Assistant, HIDDEN);
    answered.tool_calls = vec![proto::ToolCall {
        name: "search".to_owned(),
        arguments: "[say nichts]".to_owned(),
    }];
    let mut first = english("");
    first.conversation = Some(proto::Conversation {
        messages: vec![message(Role::System, "[say nichts]"), asked, answered],
    });
    let answer = judge(&rig, request(vec![first], into(&["de"]))).await;
    let told = texts(&answer.results[1]).iter();
    let told = told.map(|text| (text.message, text.part, text.text.as_str()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (1, Some(0), "Frage"),
            (1, Some(2), "und noch eine"),
            (2, None, "[unsafe] Brot")
        ]
    );
    assert_eq!(verdict(&answer.results[0]).label(), Label::Safe);
    assert_eq!(verdict(&answer.results[1]).label(), Label::Unsafe);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translation_that_cannot_be_judged_is_never_taken_for_safe() {
    let rig = Rig::start().await;
    for (text, code, name) in [
        ("[mute]", Code::Internal, "TRANSLATION_UNUSABLE"),
        ("on and on", Code::Internal, "TRANSLATION_UNUSABLE"),
        ("[nan]", Code::Internal, "NUMERIC_FAULT"),
    ] {
        let answer = judge(&rig, request(vec![english(text)], into(&["de"]))).await;
        assert_eq!(
            (answer.label(), answer.dissent),
            (Label::Undetermined, vec![]),
            "{text}"
        );
        assert_eq!(failure(&answer.results[1], code), name);
        let cut: Vec<_> = texts(&answer.results[1])
            .iter()
            .map(|text| text.is_cut_off)
            .collect();
        let expected: &[bool] = match text {
            "[mute]" => &[false],
            "on and on" => &[true],
            _ => &[],
        };
        assert_eq!(cut, expected, "{text}");
    }
    // The others still decide where they can.
    let others = vec![english("on and on"), english("[unsafe]")];
    let answer = judge(&rig, request(others, into(&["de"]))).await;
    assert_eq!((answer.label(), answer.dissent), (Label::Unsafe, vec![0, 2]));
    rig.idle().await;
    rig.stop().await;
}

/// The estimator's score is the number of its tokens.
#[tokio::test(flavor = "multi_thread")]
async fn quality_is_estimated_and_a_bound_keeps_what_is_worse_from_being_judged() {
    let gate = Gate::default();
    let mut groups = rig::scripted_groups(&Setup::default(), &gate);
    groups.push(quality_held::group(&case("comet", "softmax"), &gate));
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Auto,
    };
    let start = rig::start_options(memory, 2048, Clock::default());
    let registry = Registry::prepare_groups(groups, start).unwrap();
    registry.load_eager().unwrap();
    let rig = Rig::serve(registry, ServerOptions::default(), gate).await;
    for (bound, is_judged) in [(None, true), (Some(1.0), true), (Some(1e6), false)] {
        let options = TranslationOptions {
            quality: Some(TranslationQuality {
                model: String::new(),
                bound,
            }),
            ..into(&["de"])
        };
        let answer = judge(&rig, request(vec![english("[say Brot]")], options)).await;
        let result = &answer.results[1];
        assert!(texts(result)[0].quality_score.unwrap() > 2.0);
        let translated = result.translated.as_ref().unwrap();
        assert_eq!(translated.quality_metric(), QualityMetric::CometKiwi);
        assert_eq!(translated.quality_provenance.as_ref().unwrap().model, KIWI);
        match is_judged {
            true => assert_eq!(
                (verdict(result).label(), answer.label()),
                (Label::Safe, Label::Safe)
            ),
            false => {
                assert_eq!(failure(result, Code::Internal), "TRANSLATION_UNUSABLE");
                assert_eq!(answer.label(), Label::Undetermined);
            }
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_name_their_fields() {
    let rig = Rig::start().await;
    let one = || vec![english("[say Brot]")];
    let fifteen = [
        "de", "fr", "it", "es", "pt", "nl", "sv", "da", "fi", "pl", "cs", "hu", "ro", "el", "tr",
    ];
    let nameless = proto::ClassifyRequest {
        language: String::new(),
        ..english("[say Brot]")
    };
    let long = TranslationOptions {
        max_new_tokens: 5000,
        ..into(&["de"])
    };
    let unbounded = TranslationOptions {
        quality: Some(TranslationQuality {
            model: String::new(),
            bound: Some(f64::NAN),
        }),
        ..into(&["de"])
    };
    let mut many = english("");
    many.conversation = Some(proto::Conversation {
        messages: vec![message(Role::User, "[say Brot]"); 17],
    });
    for (renderings, options, field) in [
        (one(), into(&[]), "translation.languages"),
        (one(), into(&["de", "qq"]), "translation.languages[1]"),
        (one(), into(&["de", "fr", "DE"]), "translation.languages[2]"),
        (one(), into(&["EN"]), "translation.languages[0]"),
        (one(), into(&["d e"]), "translation.languages[0]"),
        (vec![], into(&["de"]), "renderings"),
        ([one(), one()].concat(), into(&fifteen), "renderings"),
        (vec![nameless], into(&["de"]), "renderings[0].language"),
        (vec![english(" ")], into(&["de"]), "renderings[0].conversation"),
        (vec![many], into(&["de"]), "renderings[0].conversation"),
        (one(), long, "translation.max_new_tokens"),
        (one(), unbounded, "translation.quality.bound"),
    ] {
        let mut client = rig.safety().await;
        let wrong = client.classify_renderings(request(renderings, options)).await;
        let wrong = wrong.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
        assert_eq!(violated(&wrong), [field]);
    }
    for (model, quality, name) in [
        (BASE, None, "CHAT_TEMPLATE_MISSING"),
        (GUARD, None, "CAPABILITY_MISSING"),
        ("", Some(TranslationQuality::default()), "NO_DEFAULT_MODEL"),
    ] {
        let options = TranslationOptions {
            model: model.to_owned(),
            quality,
            ..into(&["de"])
        };
        let mut client = rig.safety().await;
        let wrong = client.classify_renderings(request(one(), options)).await;
        let wrong = wrong.unwrap_err();
        assert_eq!(reason(&wrong, Code::FailedPrecondition).0, name);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn translating_needs_the_scopes_of_what_it_uses() {
    let keys = KeyFile::new();
    let judge = keys.add("judge", &[Scope::Classify]);
    let both = keys.add("both", &[Scope::Classify, Scope::Generate]);
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let mut client = rig.safety().await;
    let estimated = TranslationOptions {
        quality: Some(TranslationQuality::default()),
        ..into(&["de"])
    };
    for (key, options, needs) in [(&judge, into(&["de"]), "generate"), (&both, estimated, "score")] {
        let asked = request(vec![english("[say Brot]")], options);
        let refused = client.classify_renderings(with_key(key, asked)).await;
        let (name, details) = reason(&refused.unwrap_err(), Code::PermissionDenied);
        assert_eq!(
            (name.as_str(), details["needs"].as_str()),
            ("SCOPE_MISSING", needs)
        );
    }
    let asked = request(vec![english("[say Brot]")], into(&["de"]));
    let answer = client.classify_renderings(with_key(&both, asked)).await;
    assert_eq!(answer.unwrap().into_inner().label(), Label::Safe);
    rig.stop().await;
}

/// The call, the rendering and its translation are three requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_translation_is_a_request_of_its_tenant() {
    for (requests, label) in [(2, Label::Undetermined), (3, Label::Safe)] {
        let keys = KeyFile::new();
        let key = keys.add("small", &[Scope::Classify, Scope::Generate]);
        let limits = QuotaLimits {
            requests: Some(requests),
            tokens: None,
        };
        let security = Security {
            quotas: Quotas::new(limits, []),
            ..checked(&keys.open())
        };
        let rig = Rig::protected(Setup::default(), security).await;
        let asked = request(vec![english("[say Brot]")], into(&["de"]));
        let answer = rig
            .safety()
            .await
            .classify_renderings(with_key(&key, asked))
            .await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.label(), label, "{requests}");
        if label == Label::Undetermined {
            assert_eq!(
                failure(&answer.results[1], Code::ResourceExhausted),
                "QUOTA_REQUESTS"
            );
        }
        rig.stop().await;
    }
}
