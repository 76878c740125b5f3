//! Chat templates that would take much time or memory, and templates that models have.

use std::fs;

use super::{test_files::*, *};

fn said(role: ChatRole, content: String) -> ChatMessage {
    ChatMessage { role, content }
}

/// A conversation with as many bytes and messages as a request may have, with alternating roles.
fn largest_conversation(messages: usize, words: &str) -> Vec<ChatMessage> {
    let content = words.repeat((8 << 20) / messages / words.len());
    let turn = |index: usize| match index % 2 {
        0 => said(ChatRole::User, content.clone()),
        _ => said(ChatRole::Assistant, content.clone()),
    };
    (0..messages).map(turn).collect()
}

/// Templates that take much time or memory for every conversation.
const ENDLESS: [&str; 9] = [
    "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% set x = a %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set s = 'x' * 2000000000 %}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s.replace('x', 'xxxxxxxx') %}{% endfor %}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = ns.s | replace('x', 'xxxxxxxx') %}{% endfor %}",
    "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s, ns.s] | join(ns.s) %}{% endfor %}",
    "{% set s %}{% for i in range(90000) %}{% for j in range(1000) %}xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}{% endset %}",
    "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
];

/// Template source that makes `name` a list with 2^60 elements.
fn doubled(name: &str) -> String {
    format!("{{% set {name} = [1] %}}") + &format!("{{% set {name} = [{name}, {name}] %}}").repeat(60)
}

#[test]
fn endless_templates_are_stopped_when_they_are_opened() {
    let deep =
        "{% set ns = namespace(a=[1]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% endfor %}";
    let within = "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = [ns] %}";
    let wide = "{% set a = ['xxxxxxxxxxxxxxxx'] * 90000 %}{% set b = [a] * 90000 %}";
    let recursive = "{% for a in [[1]] recursive %}{{ loop([[a, a]]) }}{% endfor %}";
    let lists = [
        doubled("a"),
        deep.to_owned(),
        format!("{within}{{{{ ns }}}}"),
        format!("{within}{{% set x = ns ~ '' %}}"),
        format!("{wide}{{% set x = b ~ '' %}}"),
        format!("{wide}{{{{ b }}}}"),
        format!("{wide}{{{{ b | tojson }}}}"),
        format!("{wide}{{{{ b | join }}}}"),
        format!("{wide}{{{{ ''.join(b) }}}}"),
        format!("{wide}{{% set c = [a] * 90000 %}}{{{{ b == c }}}}"),
        format!("{wide}{{% set c = [a] * 90000 %}}{{{{ c in [b] }}}}"),
        format!("{wide}{{{{ b | sort | length }}}}"),
        format!("{wide}{{{{ b | map('string') | list | length }}}}"),
        recursive.to_owned(),
    ];
    for source in ENDLESS.map(str::to_owned).into_iter().chain(lists) {
        let source = format!("{source}{{{{ messages[0].content }}}}");
        let opened = ChatTemplate::new(&source, "", "").map(|_| ());
        assert!(
            matches!(opened, Err(TemplateError::TooLong)),
            "{source}: {opened:?}"
        );
    }
}

#[test]
fn expressions_that_would_take_all_of_the_stack_are_refused() {
    let many = 100_000;
    for source in [
        format!("{{{{ 1{} }}}}", " + a".repeat(many)),
        format!("{{{{ a{} }}}}", ".a".repeat(many)),
        format!("{{{{ a{} }}}}", "|d".repeat(many)),
        format!("{{{{ {}a }}}}", "not ".repeat(many)),
        format!("{{{{ {}a }}}}", "-".repeat(many)),
        format!("{{{{ {}a }}}}", "[".repeat(many)),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(20_000)),
        format!("{}{}", "{% if a %}".repeat(20_000), "{% endif %}".repeat(20_000)),
    ] {
        let opened = ChatTemplate::new(&source, "", "").map(|_| ());
        assert!(
            matches!(opened, Err(TemplateError::Invalid(_))),
            "{source:.60}: {opened:?}"
        );
    }
}

#[test]
fn a_template_has_a_largest_size() {
    let source = "x".repeat(600 << 10);
    assert!(
        matches!(ChatTemplate::new(&source, "", "").map(|_| ()), Err(TemplateError::Invalid(e)) if e.contains("limit"))
    );
}

#[test]
fn real_templates_have_enough_for_the_largest_conversation() {
    let folder = llama_cpp().join("models/templates");
    let conversations = [
        largest_conversation(63, "What is it?\nA question. "),
        largest_conversation(31, "a\n\nb "),
    ];
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = fs::read_to_string(&path).unwrap();
        let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") else {
            continue;
        };
        for conversation in &conversations {
            let rendered = template.render(conversation, true);
            assert!(!matches!(rendered, Err(TemplateError::TooLong)), "{path:?}");
            checked += usize::from(rendered.is_ok());
        }
    }
    assert!(checked > 100, "{checked}");
}
