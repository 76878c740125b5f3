//! Asks one server for its health, its models and its metrics, again and again, whether it answers or not.

use std::time::{Duration, Instant};

use super::{
    figures::{Health, Readings, ServerFigures},
    samples::Samples,
};
use crate::{
    client::{Client, ClientError, ClientOptions, MetricsReadError, MetricsReader},
    errors::with_causes,
    proto::Model,
};

/// One server.
pub(super) struct Source {
    address: String,
    options: ClientOptions,
    /// Absent until it has answered once. From then on its channel connects anew by itself.
    client: Option<Client>,
    reader: Result<MetricsReader, MetricsReadError>,
    last: Option<(Instant, Samples)>,
}

/// What a server says over gRPC.
struct Answers {
    health: Health,
    /// Its models and its version, or why it does not tell them, perhaps because the key is wrong.
    models: Result<(Vec<Model>, String), ClientError>,
}

impl Source {
    pub(super) fn new(address: String, metrics: &str, options: ClientOptions) -> Self {
        Self {
            reader: MetricsReader::new(metrics, &options),
            address,
            options,
            client: None,
            last: None,
        }
    }

    /// Its figures now. Takes at most about twice the time that the options give to a call.
    pub(super) async fn read(&mut self) -> ServerFigures {
        let mut problems = Vec::new();
        let answers = self.ask().await;
        if let Err(error)
        | Ok(Answers {
            models: Err(error), ..
        }) = &answers
        {
            problems.push(with_causes(error));
        }
        let now = match self.metrics().await {
            Ok(samples) => Some((Instant::now(), samples)),
            Err(error) => {
                problems.push(format!("no metrics: {error}"));
                None
            }
        };
        let figures = self.figures(answers.ok(), now.as_ref(), problems);
        // After a time without metrics, rates are of the whole time.
        if now.is_some() {
            self.last = now;
        }
        figures
    }

    fn figures(
        &self,
        answers: Option<Answers>,
        now: Option<&(Instant, Samples)>,
        problems: Vec<String>,
    ) -> ServerFigures {
        let nothing = Samples::default();
        let (at, samples) = match now {
            Some((at, samples)) => (*at, samples),
            None => (Instant::now(), &nothing),
        };
        let before = self.last.as_ref().filter(|_| now.is_some());
        let between = before.map_or(Duration::ZERO, |(before, _)| {
            at.saturating_duration_since(*before)
        });
        let readings = Readings {
            before: before.map(|(_, samples)| samples),
            now: samples,
            between,
        };
        let health = answers
            .as_ref()
            .map_or(Health::Unreachable, |answers| answers.health);
        let (models, version) = answers
            .and_then(|answers| answers.models.ok())
            .unwrap_or_default();
        ServerFigures {
            server: self.address.clone(),
            health,
            problems,
            seconds: before.map(|_| between.as_secs_f64()),
            connections: samples.sum("babelward_connections", &[]),
            memory: readings.memory(),
            models: readings.models(&models),
            methods: readings.methods(),
            verdicts: readings.verdicts(),
            refusals: readings.refusals(),
            version: Some(version).filter(|version| !version.is_empty()),
        }
    }

    async fn ask(&mut self) -> Result<Answers, ClientError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = Client::connect(&self.address, self.options.clone()).await?;
                self.client.insert(client).clone()
            }
        };
        let (serving, models) = tokio::join!(client.is_serving(""), client.list_models_and_version());
        Ok(Answers {
            health: if serving? {
                Health::Serving
            } else {
                Health::NotServing
            },
            models,
        })
    }

    async fn metrics(&self) -> Result<Samples, MetricsReadError> {
        let reader = self.reader.clone()?;
        let url = reader.url().to_owned();
        let read = tokio::task::spawn_blocking(move || reader.read()).await;
        let text = read.unwrap_or_else(|error| {
            Err(MetricsReadError::Unreachable {
                url,
                reason: error.to_string(),
            })
        })?;
        Ok(Samples::parse(&text))
    }
}
