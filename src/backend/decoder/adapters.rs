//! Opens the adapters of a decoder.

use std::path::{Path, PathBuf};

use crate::model::{
    AdapterError, Base, HeadOrder, LoadFault, WeightSource,
    spec::{FeedForward, ModelConfig},
};

/// Gives each adapter of a decoder to `work`.
///
/// # Errors
/// When an adapter cannot be used, or the decoder takes none; names the adapter.
pub(in crate::backend) fn adapters_of<T>(
    paths: &[PathBuf],
    config: &ModelConfig,
    source: &dyn WeightSource,
    work: impl Fn(&Path, &Base<'_>) -> Result<T, AdapterError>,
) -> Result<Vec<T>, LoadFault> {
    if let (Some(path), FeedForward::Plain) = (paths.first(), config.feed_forward) {
        let what = format!("an adapter of a `{}` model", config.architecture);
        return Err(LoadFault::Adapter(path.clone(), AdapterError::Unsupported(what)));
    }
    let gguf_architecture = source.gguf_architecture();
    let base = Base {
        config,
        heads: HeadOrder::of(gguf_architecture),
        gguf_architecture,
    };
    let each = |path: &PathBuf| work(path, &base).map_err(|error| LoadFault::Adapter(path.clone(), error));
    paths.iter().map(each).collect()
}
