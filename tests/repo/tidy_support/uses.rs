//! Which file of a crate uses which.

use std::collections::BTreeMap;

use super::module_reader::read;

/// Which files each file uses, with one path that names the use. File names are those of the sources.
pub type Uses = BTreeMap<String, BTreeMap<String, String>>;

/// The uses in the crate whose root is `src/lib.rs`, out of `(file name, text)` pairs; code for tests only is left out.
///
/// A path counts for the file that defines what it names: modules on its way do not count, and a re-export leads on to
/// the file that it re-exports from. A module's own `mod` and `pub use` of what lies below it are no uses, nor is an
/// import that names a whole module: the paths that go through it are.
pub fn uses(sources: &[(String, String)]) -> Uses {
    let tree = read(sources);
    let mut found = Uses::new();
    for (index, module) in tree.modules.iter().enumerate() {
        let used = found.entry(module.file.clone()).or_default();
        for reference in &module.references {
            let Some(target) = tree.target_of(index, reference) else {
                continue;
            };
            let file = &tree.modules[target].file;
            if *file != module.file {
                used.entry(file.clone())
                    .or_insert_with(|| reference.path.join("::"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each use as `from -> to`, of sources whose names are given below `src/`.
    fn found(sources: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = sources
            .iter()
            .map(|(name, text)| (format!("src/{name}"), (*text).to_owned()))
            .collect();
        let mut pairs = Vec::new();
        for (from, used) in uses(&sources) {
            pairs.extend(
                used.keys()
                    .map(|to| format!("{} -> {}", &from["src/".len()..], &to["src/".len()..])),
            );
        }
        pairs
    }

    #[test]
    fn every_way_to_write_a_path_is_a_use() {
        let lib = ("lib.rs", "mod a; mod b; mod c; mod d; mod e; mod f;");
        let b = "use crate::{a::One, c::{self, Two}};\nfn f() { c::g(); super::d::h(); println!(\"{}\", crate::e::K); }";
        let f = "pub struct Wide { #[serde(with = x, other(crate::e::K))] a: Option<crate::a::One> }";
        let sources = [
            lib,
            ("a.rs", "pub struct One;"),
            ("b.rs", b),
            ("c.rs", "pub struct Two; pub fn g() {}"),
            ("d/mod.rs", "pub fn h() {}"),
            ("e.rs", "pub const K: u8 = 1;"),
            ("f.rs", f),
        ];
        let expected = [
            "b.rs -> a.rs",
            "b.rs -> c.rs",
            "b.rs -> d/mod.rs",
            "b.rs -> e.rs",
            "f.rs -> a.rs",
            "f.rs -> e.rs",
        ];
        assert_eq!(found(&sources), expected);
    }

    #[test]
    fn a_parent_that_only_shows_its_child_does_not_use_it() {
        let shows = [
            ("lib.rs", "mod a;"),
            (
                "a/mod.rs",
                "mod b; pub use b::One; pub(crate) use self::b::*; pub struct Own;",
            ),
            ("a/b.rs", "pub struct One; fn f(own: &super::Own) {}"),
        ];
        assert_eq!(found(&shows), ["a/b.rs -> a/mod.rs"]);
        let uses = [
            ("lib.rs", "mod a;"),
            ("a/mod.rs", "mod b; pub use b::One; fn f(one: &One) {}"),
            ("a/b.rs", "pub struct One;"),
        ];
        assert_eq!(found(&uses), ["a/mod.rs -> a/b.rs"]);
    }

    #[test]
    fn a_re_export_leads_to_what_it_re_exports() {
        let sources = [
            ("lib.rs", "mod a; mod z;"),
            ("a/mod.rs", "mod b; mod c; pub use b::One; pub use c::*;"),
            ("a/b.rs", "use super::Two; pub struct One;"),
            ("a/c.rs", "pub struct Two;"),
            ("z.rs", "use crate::a; fn f() { a::One; }"),
        ];
        assert_eq!(found(&sources), ["a/b.rs -> a/c.rs", "z.rs -> a/b.rs"]);
    }

    #[test]
    fn names_of_others_are_no_uses() {
        let text = "use std::fmt; use serde::a::One; fn f(a: u8) { let b = a; ::b::x(); y.b(); \"crate::b::x\"; } // crate::b::x";
        let sources = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", text),
            ("b.rs", "pub fn x() {}"),
        ];
        assert!(found(&sources).is_empty());
    }

    #[test]
    fn what_only_tests_compile_does_not_count() {
        let text = "#[cfg(test)] mod t { use crate::b::x; }\n#[cfg(all(test, unix))] use crate::b::x;\n\
                    #[cfg(test)] fn f() { crate::b::x(); }\n#[cfg(test)] mod absent;\n\
                    impl A { #[cfg(test)] fn g() { crate::b::x(); } }\n#[cfg(not(test))] fn h() { crate::c::y(); }";
        let sources = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", text),
            ("b.rs", "pub fn x() {}"),
            ("c.rs", "pub fn y() {}"),
        ];
        assert_eq!(found(&sources), ["a.rs -> c.rs"]);
    }

    #[test]
    fn modules_within_a_file_and_named_files_are_followed() {
        let sources = [
            ("lib.rs", "mod a;"),
            (
                "a.rs",
                "mod inner { pub mod deep; use super::super::a::inner::deep::x; }\n#[path = \"far/b.rs\"] mod b;",
            ),
            ("a/inner/deep.rs", "pub fn x() {}"),
            ("far/b.rs", "use super::inner::deep::x;"),
        ];
        assert_eq!(
            found(&sources),
            ["a.rs -> a/inner/deep.rs", "far/b.rs -> a/inner/deep.rs"]
        );
    }

    #[test]
    fn what_a_macro_or_generated_code_defines_belongs_to_its_module() {
        let sources = [
            ("lib.rs", "mod a; mod proto;"),
            ("a.rs", "use crate::proto::v1::Message;"),
            ("proto.rs", "generated!();"),
        ];
        assert_eq!(found(&sources), ["a.rs -> proto.rs"]);
    }
}
