//! Parameters of functions: how many there are, and whether one hides several.

use proc_macro2::Ident;
use syn::visit::{self, Visit};
use syn::{FnArg, Pat, Signature};

/// Functions of a source that take more than `max` parameters, a receiver included, or take a tuple apart in their
/// parameters: `name: what is wrong`. Closures may take tuples apart: they are handed what an iterator has.
pub fn crowded(source: &str, max: usize) -> syn::Result<Vec<String>> {
    let mut functions = Functions {
        max,
        found: Vec::new(),
    };
    functions.visit_file(&syn::parse_file(source)?);
    Ok(functions.found)
}

struct Functions {
    max: usize,
    found: Vec<String>,
}

impl Functions {
    fn report(&mut self, name: &Ident, wrong: &str) {
        self.found.push(format!("{name}: {wrong}"));
    }
}

impl Visit<'_> for Functions {
    fn visit_signature(&mut self, signature: &Signature) {
        let count = signature.inputs.len();
        if count > self.max {
            self.report(&signature.ident, &format!("{count} parameters"));
        }
        if signature.inputs.iter().any(takes_a_tuple_apart) {
            self.report(&signature.ident, "a tuple taken apart");
        }
        visit::visit_signature(self, signature);
    }
}

fn takes_a_tuple_apart(input: &FnArg) -> bool {
    let FnArg::Typed(parameter) = input else {
        return false;
    };
    let mut pattern = &*parameter.pat;
    while let Pat::Reference(reference) = pattern {
        pattern = &reference.pat;
    }
    matches!(pattern, Pat::Tuple(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_and_crowds_are_found_in_functions_methods_and_traits() {
        let source = "fn a((x, y): (u8, u8)) {}\n\
                      impl A { fn b(&self, &(x, y): &(u8, u8)) { fn c(a: u8, b: u8, c: u8) {} } }\n\
                      trait T { fn d(&self, a: u8, b: u8); fn e(&self, a: u8); }";
        let found = crowded(source, 2).expect("a source");
        let expected = [
            "a: a tuple taken apart",
            "b: a tuple taken apart",
            "c: 3 parameters",
            "d: 3 parameters",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn named_tuples_structs_and_closures_are_let_be() {
        let source = "fn a(pair: (u8, u8), Point { x, y }: Point, Id(id): Id) { pairs.map(|(x, y)| x); }";
        assert!(crowded(source, 6).expect("a source").is_empty());
    }
}
