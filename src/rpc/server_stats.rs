//! What the models are doing and have done, for GetServerStats.

use std::time::SystemTime;

use super::{provenance::count, sequence::Shared};
use crate::{proto, registry::ResidentStats};

/// The counts now.
pub(crate) fn of(shared: &Shared) -> proto::GetServerStatsResponse {
    proto::GetServerStatsResponse {
        models: shared.registry.resident_stats().into_iter().map(model).collect(),
        verdicts: shared.verdicts.now(),
        read_time: Some(SystemTime::now().into()),
    }
}

fn model(resident: ResidentStats) -> proto::ResidentModelStats {
    let ResidentStats { ids, stats } = resident;
    proto::ResidentModelStats {
        names: ids,
        queue_depth: count(stats.queued),
        in_flight: count(stats.running),
        kv_usage: stats.kv_usage(),
        computed_prompt_tokens: stats.tokens.computed,
        cached_prompt_tokens: stats.tokens.cached,
        generated_tokens: stats.tokens.generated,
    }
}
