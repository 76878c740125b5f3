//! The calls of our services, with their names and deadlines.

use std::time::{Duration, Instant};

use super::{deadline::Deadline, limits::DefaultDeadlines};
use crate::auth::Scope;

/// A call of one of our services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    Generate,
    GenerateStream,
    Classify,
    BatchClassify,
    ClassifyStream,
    GuardStream,
    ClassifyRenderings,
    FindEvidence,
    ListPolicies,
    Score,
    ScoreStream,
    ListModels,
    GetModel,
    WatchModels,
    CountTokens,
    GetServerStats,
    LoadModel,
    UnloadModel,
    PinModel,
    EstimateModel,
    EstimateQuality,
}

impl Method {
    pub(crate) const ALL: [Self; 21] = [
        Self::Generate,
        Self::GenerateStream,
        Self::Classify,
        Self::BatchClassify,
        Self::ClassifyStream,
        Self::GuardStream,
        Self::ClassifyRenderings,
        Self::FindEvidence,
        Self::ListPolicies,
        Self::Score,
        Self::ScoreStream,
        Self::ListModels,
        Self::GetModel,
        Self::WatchModels,
        Self::CountTokens,
        Self::GetServerStats,
        Self::LoadModel,
        Self::UnloadModel,
        Self::PinModel,
        Self::EstimateModel,
        Self::EstimateQuality,
    ];

    /// The call's name in paths of requests and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generate => "babelward.v1.GenerationService/Generate",
            Self::GenerateStream => "babelward.v1.GenerationService/GenerateStream",
            Self::Classify => "babelward.v1.SafetyService/Classify",
            Self::BatchClassify => "babelward.v1.SafetyService/BatchClassify",
            Self::ClassifyStream => "babelward.v1.SafetyService/ClassifyStream",
            Self::GuardStream => "babelward.v1.SafetyService/GuardStream",
            Self::ClassifyRenderings => "babelward.v1.SafetyService/ClassifyRenderings",
            Self::FindEvidence => "babelward.v1.SafetyService/FindEvidence",
            Self::ListPolicies => "babelward.v1.SafetyService/ListPolicies",
            Self::Score => "babelward.v1.ScoringService/Score",
            Self::ScoreStream => "babelward.v1.ScoringService/ScoreStream",
            Self::ListModels => "babelward.v1.ModelService/ListModels",
            Self::GetModel => "babelward.v1.ModelService/GetModel",
            Self::WatchModels => "babelward.v1.ModelService/WatchModels",
            Self::CountTokens => "babelward.v1.ModelService/CountTokens",
            Self::GetServerStats => "babelward.v1.ModelService/GetServerStats",
            Self::LoadModel => "babelward.v1.AdminService/LoadModel",
            Self::UnloadModel => "babelward.v1.AdminService/UnloadModel",
            Self::PinModel => "babelward.v1.AdminService/PinModel",
            Self::EstimateModel => "babelward.v1.AdminService/EstimateModel",
            Self::EstimateQuality => "babelward.v1.QualityService/EstimateQuality",
        }
    }

    /// The scopes of which a caller needs any one. docs/security.md has the same table.
    pub(crate) fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Generate | Self::GenerateStream => &[Scope::Generate],
            Self::Classify
            | Self::BatchClassify
            | Self::ClassifyStream
            | Self::GuardStream
            | Self::ClassifyRenderings
            | Self::FindEvidence => &[Scope::Classify],
            Self::Score | Self::ScoreStream | Self::EstimateQuality => &[Scope::Score],
            Self::ListPolicies
            | Self::ListModels
            | Self::GetModel
            | Self::WatchModels
            | Self::CountTokens => &[Scope::Classify, Scope::Generate, Scope::Score, Scope::Admin],
            // What all tenants together do is told to whom the metrics are told.
            Self::GetServerStats => &[Scope::Metrics],
            Self::LoadModel | Self::UnloadModel | Self::PinModel | Self::EstimateModel => &[Scope::Admin],
        }
    }

    /// Whether it manages models.
    pub(crate) fn is_admin(self) -> bool {
        self.scopes() == [Scope::Admin]
    }

    /// Whether each of its items counts as a request of its tenant, and not the call as a whole.
    pub(crate) fn counts_items(self) -> bool {
        let has_items = matches!(
            self,
            Self::BatchClassify | Self::ClassifyRenderings | Self::EstimateQuality
        );
        self.takes_items() || has_items
    }

    /// Whether its requests are a stream of items, each with an id of its own.
    pub(crate) fn takes_items(self) -> bool {
        matches!(
            self,
            Self::GenerateStream | Self::ClassifyStream | Self::ScoreStream
        )
    }

    /// Whether its requests are messages of one stream that belong together. A call that takes neither these nor items has one
    /// request message.
    pub(crate) fn takes_parts(self) -> bool {
        self == Self::GuardStream
    }

    /// The deadline of a call whose client sets `timeout`. A stream of requests may live for as long as its client wants; other
    /// calls have at most `longest`.
    pub(crate) fn requested_deadline(
        self,
        arrival: Instant,
        timeout: Duration,
        longest: Duration,
    ) -> Deadline {
        if self.takes_items() || self.takes_parts() || self == Self::WatchModels {
            Deadline::after(arrival, timeout)
        } else {
            Deadline::after(arrival, timeout.min(longest))
        }
    }

    /// The call with this path; `None` when it is not one of our services.
    pub(crate) fn of_path(path: &str) -> Option<Self> {
        let name = path.strip_prefix('/')?;
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    /// The deadline of a call whose client sets none.
    pub(crate) fn default_deadline(self, arrival: Instant, defaults: &DefaultDeadlines) -> Deadline {
        let timeout = match self {
            Self::Generate => defaults.generate,
            Self::Classify => defaults.classify,
            Self::BatchClassify | Self::ClassifyRenderings | Self::FindEvidence => defaults.batch_classify,
            Self::Score => defaults.score,
            Self::EstimateQuality => defaults.estimate_quality,
            Self::ListModels
            | Self::GetModel
            | Self::CountTokens
            | Self::GetServerStats
            | Self::ListPolicies => defaults.models,
            Self::LoadModel | Self::UnloadModel | Self::PinModel | Self::EstimateModel => defaults.admin,
            Self::GenerateStream
            | Self::ClassifyStream
            | Self::GuardStream
            | Self::ScoreStream
            | Self::WatchModels => return Deadline::default(),
        };
        Deadline::after(arrival, timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_found_by_its_path() {
        for method in Method::ALL {
            assert_eq!(Method::of_path(&format!("/{}", method.name())), Some(method));
        }
        assert_eq!(Method::of_path("/grpc.health.v1.Health/Check"), None);
    }

    #[test]
    fn deadlines_beyond_the_longest_count_as_that() {
        let (now, hour) = (Instant::now(), Duration::from_secs(3600));
        let deadline = |method: Method, timeout| method.requested_deadline(now, timeout, hour);
        let ages = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(deadline(Method::Classify, ages), Deadline::after(now, hour));
        assert_eq!(deadline(Method::Generate, ages), Deadline::after(now, hour));
        let minute = Duration::from_secs(60);
        assert_eq!(deadline(Method::Classify, minute), Deadline::after(now, minute));
        assert_eq!(
            deadline(Method::ScoreStream, 2 * hour),
            Deadline::after(now, 2 * hour)
        );
    }

    #[test]
    fn methods_are_those_of_the_protocol() {
        use prost::Message as _;
        let set = prost_types::FileDescriptorSet::decode(crate::proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut declared = Vec::new();
        for file in set.file {
            for service in &file.service {
                for method in &service.method {
                    declared.push(format!("{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let mut ours: Vec<_> = Method::ALL
            .iter()
            .map(|method| method.name().to_owned())
            .collect();
        declared.sort();
        ours.sort();
        assert_eq!(ours, declared);
    }
}
