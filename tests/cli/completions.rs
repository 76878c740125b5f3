//! `completions`: shells that run the scripts offer what the program accepts.

use std::{fs, process::Command};

use crate::support::{Outcome, command, program, run};

fn script(shell: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(command(folder.path()).args(["completions", shell]));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome.stdout
}

/// What bash offers for the last of these words, one on each line.
fn bash_offers(words: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("babelward.bash"), script("bash")).unwrap();
    // As bash does when somebody presses Tab: it sets these variables and calls the function that `complete` has named.
    let ask = r#"
        source ./babelward.bash
        function=$(complete -p babelward | sed 's/.* -F \([^ ]*\) .*/\1/')
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        "$function" babelward "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut bash: Command = program("bash", folder.path());
    bash.args(["--norc", "-c", ask, "bash"]).args(words);
    let Outcome { code, stdout, stderr } = run(&mut bash);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    stdout
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn bash_completes_commands_flags_and_values() {
    assert_eq!(lines(&bash_offers(&["babelward", "sco"])), ["score"]);
    assert_eq!(
        lines(&bash_offers(&["babelward", "bench", "res"])),
        ["rescore", "resume"]
    );
    assert_eq!(
        lines(&bash_offers(&["babelward", "keys", "new", "--exp"])),
        ["--expires"]
    );
    assert_eq!(
        lines(&bash_offers(&["babelward", "--format", "json"])),
        ["json", "jsonl"]
    );
}

#[test]
fn bash_does_not_offer_what_help_does_not_show() {
    let offered = bash_offers(&["babelward", ""]);
    assert!(offered.contains("classify"), "{offered}");
    assert!(!offered.contains("engine-bench"), "{offered}");
}

#[test]
fn every_shell_has_a_script_that_knows_the_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = script(shell);
        for word in ["classify", "rescore", "metrics-listen"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
}

#[test]
fn an_unknown_shell_is_refused_with_those_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(command(folder.path()).args(["completions", "tcsh"]));
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("zsh"), "{}", outcome.stderr);
}
