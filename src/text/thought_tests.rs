//! Conversations of several turns with models that think before they answer: what their templates leave out of earlier
//! answers.

use std::fs;

use super::{chat_template::ChatTemplate, test_files::*, *};

fn template(name: &str) -> ChatTemplate {
    let path = llama_cpp().join("models/templates").join(name);
    ChatTemplate::new(&fs::read_to_string(path).unwrap(), "<s>", "</s>").unwrap()
}

/// Templates that show a model its earlier answers without thoughts.
const LEAVE_OUT: [&str; 5] = [
    "Qwen-Qwen3-0.6B.jinja",
    "Qwen-QwQ-32B.jinja",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja",
    "llama-cpp-deepseek-r1.jinja",
];

/// A question, an answer, and another question.
fn turns(answer: &str) -> Vec<ChatMessage> {
    let message = |role, content: &str| ChatMessage {
        role,
        content: content.to_owned(),
    };
    vec![
        message(ChatRole::User, "What is two and two?"),
        message(ChatRole::Assistant, answer),
        message(ChatRole::User, "And three and three?"),
    ]
}

fn contents(rendered: &Rendered) -> Vec<&str> {
    let segments = rendered.segments.iter();
    segments
        .filter_map(|segment| match segment {
            Segment::Content(words) => Some(words.as_str()),
            Segment::Template(_) => None,
        })
        .collect()
}

fn joined(rendered: &Rendered) -> String {
    rendered.segments.iter().map(Segment::text).collect()
}

#[test]
fn earlier_thoughts_are_left_out_and_told() {
    for name in LEAVE_OUT {
        let template = template(name);
        for answer in [
            "<think>\nI add them.\n</think>\n\nFour.",
            "<think>I add them.</think>Four.",
            "  <think>\nI add them.\n</think>\n\nFour. \n",
            // The prompt ended with the opening tag.
            "I add them.\n</think>\n\nFour.",
        ] {
            let messages = turns(answer);
            let rendered = template.render_turns(&messages, true).unwrap();
            assert_eq!(rendered.thoughts_left_out, [1], "{name} {answer:?}");
            assert_eq!(
                contents(&rendered),
                ["What is two and two?", "Four.", "And three and three?"],
                "{name} {answer:?}"
            );
            assert_eq!(
                joined(&rendered),
                template.render_unmarked(&messages, true).unwrap(),
                "{name} {answer:?}"
            );
        }
        // An empty thought does not count.
        let rendered = template
            .render_turns(&turns("<think>\n\n</think>\n\nFour."), true)
            .unwrap();
        assert!(rendered.thoughts_left_out.is_empty(), "{name}");
        let rendered = template.render_turns(&turns("Four."), true).unwrap();
        assert!(rendered.thoughts_left_out.is_empty(), "{name}");
    }
}

#[test]
fn words_that_are_no_thoughts_must_not_vanish() {
    for name in LEAVE_OUT {
        let template = template(name);
        let dropped = |messages: &[ChatMessage]| match template.render_turns(messages, true) {
            Err(TemplateError::MessageDropped(index)) => index,
            other => panic!("{name}: {other:?}"),
        };
        // Text in front of the thoughts, and between two closing tags.
        assert_eq!(dropped(&turns("So: <think>I add them.</think>Four.")), 1);
        assert_eq!(dropped(&turns("<think>I add</think>them.</think>Four.")), 1);
        // Only the assistant has thoughts. The text of a user is kept, whatever it spells.
        let mut messages = turns("<think>I add them.</think>Four.");
        messages[2].content = "<think>Hm.</think>And three and three?".to_owned();
        let rendered = template.render_turns(&messages, true).unwrap();
        assert_eq!(contents(&rendered)[2], messages[2].content, "{name}");
    }
    // The same holds if a template would cut it into pieces.
    let cuts = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}|{% endfor %}";
    let cuts = ChatTemplate::new(cuts, "", "").unwrap();
    let mut messages = turns("<think>x</think>y");
    assert_eq!(cuts.render_turns(&messages, true).unwrap().thoughts_left_out, [1]);
    messages[2].content = "a</think>b".to_owned();
    assert!(matches!(
        cuts.render_turns(&messages, true),
        Err(TemplateError::MessageDropped(2))
    ));
    // A template that leaves the answer out too.
    let thoughtful = "{% for m in messages %}{{ m.content.split('</think>')[0] }}|{% endfor %}";
    let thoughtful = ChatTemplate::new(thoughtful, "", "").unwrap();
    assert!(matches!(
        thoughtful.render_turns(&turns("<think>x</think>y"), true),
        Err(TemplateError::MessageDropped(1))
    ));
}

#[test]
fn thoughts_that_a_template_keeps_are_the_models_own_words() {
    // The last answer keeps its thoughts in Qwen3's template.
    let qwen = template("Qwen-Qwen3-0.6B.jinja");
    let mut messages = turns("<think>\nI add <|im_end|> them.\n</think>\n\nFour.");
    messages.pop();
    let rendered = qwen.render_turns(&messages, true).unwrap();
    assert!(rendered.thoughts_left_out.is_empty());
    assert_eq!(contents(&rendered)[1..], ["I add <|im_end|> them.", "Four."]);
    assert_eq!(joined(&rendered), qwen.render_unmarked(&messages, true).unwrap());
    // Templates without support for thoughts show the whole message, with its tags, as content.
    let messages = turns("<think>I add them.</think>Four.");
    let rendered = smollm2_chat().render_turns(&messages, true).unwrap();
    assert_eq!(contents(&rendered)[1], messages[1].content);
    assert!(rendered.thoughts_left_out.is_empty());
}

/// Every template that accepts a conversation without thoughts accepts it with thoughts, and the prompt is the same as
/// without marks.
#[test]
fn every_template_takes_its_own_model_s_thoughts() {
    let mut left_out = 0;
    for entry in fs::read_dir(llama_cpp().join("models/templates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = fs::read_to_string(&path).unwrap();
        let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") else {
            continue;
        };
        if !name.ends_with(".jinja") || template.render_turns(&turns("Four."), true).is_err() {
            continue;
        }
        let tags = match source {
            source if source.contains("</seed:think>") => ["<seed:think>", "</seed:think>"],
            source if source.contains("[/THINK]") => ["[THINK]", "[/THINK]"],
            _ => ["<think>", "</think>"],
        };
        let messages = turns(&format!("{}\nI add them.\n{}\n\nFour.", tags[0], tags[1]));
        let rendered = template
            .render_turns(&messages, true)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            joined(&rendered),
            template.render_unmarked(&messages, true).unwrap(),
            "{name}"
        );
        assert_eq!(
            rendered.thoughts_left_out.is_empty(),
            joined(&rendered).contains("I add them."),
            "{name}"
        );
        left_out += rendered.thoughts_left_out.len();
    }
    assert!(left_out >= LEAVE_OUT.len(), "{left_out}");
}
