//! Rust and C++ agree on what kernels take.

use std::collections::BTreeMap;

use babelward::backend::cuda::{arguments::layouts, kernels::KernelFile};
use serde_json::Value;

use crate::library::KERNELS;

#[test]
fn every_field_of_every_argument_lies_where_the_kernels_expect_it() {
    let declared: BTreeMap<String, Value> = serde_json::from_str(&KERNELS.layout()).unwrap();
    for layout in layouts() {
        let found = &declared[layout.name];
        assert_eq!(found["size"], layout.size, "{}", layout.name);
        let fields = layout.fields.iter().filter(|(name, _)| !is_padding(name));
        let ours: BTreeMap<String, Value> = fields
            .map(|&(name, offset)| (name.to_owned(), offset.into()))
            .collect();
        let theirs = found["fields"].as_object().unwrap().iter();
        let theirs = theirs.filter(|(name, _)| !is_padding(name));
        let theirs: BTreeMap<String, Value> = theirs
            .map(|(name, offset)| (name.clone(), offset.clone()))
            .collect();
        assert_eq!(ours, theirs, "{}", layout.name);
    }
    let known: Vec<_> = layouts().into_iter().map(|layout| layout.name).collect();
    let unknown: Vec<_> = declared
        .keys()
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn is_padding(name: &str) -> bool {
    name == "pad" || name == "padding"
}

#[test]
fn attention_takes_as_much_shared_memory_as_is_asked_for() {
    for head in (16..=256).step_by(16) {
        let bytes = babelward::backend::cuda::kernels::attention_shared_bytes(head as usize);
        assert_eq!(bytes, KERNELS.attention_shared_bytes(head), "heads of {head}");
        assert!(bytes <= 99 << 10, "heads of {head}");
    }
}

#[test]
fn sources_are_compiled_without_joining_products_and_sums() {
    for file in [
        KernelFile::Rows,
        KernelFile::LowRank,
        KernelFile::Logits,
        KernelFile::Packed,
        KernelFile::Noise,
        KernelFile::Attention { head: 64 },
    ] {
        assert!(
            file.options().contains(&"--fmad=false".to_owned()),
            "{}",
            file.name()
        );
    }
}
