//! `policies`: the policies that a server's guards can judge by.

use serde_json::{Value, json};

use super::{
    Connection, Exit, Format, Global, json,
    output::{print_line, print_list, table},
};
use crate::proto::ConfiguredPolicy;

/// List the policies of a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the policies that the server has, for --policy
    #[command(visible_alias = "list")]
    Ls(Connection),
    /// List the decision policies that the server has, for classify --decision
    Decisions(Connection),
}

impl Args {
    /// The connection flags.
    pub(super) fn connection(&self) -> &Connection {
        match &self.command {
            Command::Ls(connection) | Command::Decisions(connection) => connection,
        }
    }
}

/// Lists the server's policies.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Ls(_) => global.block_on(list(global)),
        Command::Decisions(_) => global.block_on(list_decisions(global)),
    }
}

async fn list_decisions(global: &Global) -> anyhow::Result<Exit> {
    let policies = global.connect().await?.decision_policies().await?;
    match global.format {
        Format::Json | Format::Jsonl => {
            let values = policies.iter().map(json::message).collect::<Result<_, _>>()?;
            print_list(global.format, values)?;
        }
        Format::Human if policies.is_empty() => print_line(
            "the server has no decision policies; decisions.files of its configuration adds some (see docs/decisions.md)",
        )?,
        Format::Human => {
            let mut rows = vec![["NAME", "VERSION", "USE", "DIGEST"].map(str::to_owned).to_vec()];
            rows.extend(policies.into_iter().map(|policy| {
                let mut uses = Vec::new();
                uses.extend(policy.is_default.then_some("default"));
                uses.extend(policy.is_shadow.then_some("shadow"));
                let shown = if uses.is_empty() {
                    "-".to_owned()
                } else {
                    uses.join(", ")
                };
                vec![policy.name, policy.version.to_string(), shown, policy.digest]
            }));
            print_line(&table(&rows))?;
        }
    }
    Ok(Exit::Done)
}

async fn list(global: &Global) -> anyhow::Result<Exit> {
    let policies = global.connect().await?.policies().await?;
    match global.format {
        Format::Json | Format::Jsonl => print_list(global.format, policies.iter().map(value).collect())?,
        Format::Human if policies.is_empty() => print_line(
            "the server has no policies: its guards judge by the categories that they were trained on; \
             policies.files of its configuration adds some",
        )?,
        Format::Human => print_line(&policy_table(&policies))?,
    }
    Ok(Exit::Done)
}

fn policy_table(policies: &[ConfiguredPolicy]) -> String {
    let mut rows = vec![["NAME", "CATEGORIES", "DIGEST"].map(str::to_owned).to_vec()];
    rows.extend(policies.iter().map(|configured| {
        let policy = configured.policy.clone().unwrap_or_default();
        let categories = policy.categories.iter();
        let categories: Vec<_> = categories
            .map(|category| format!("{} {}", category.code, category.name))
            .collect();
        vec![policy.name, categories.join(", "), configured.digest.clone()]
    }));
    table(&rows)
}

/// `babelward.v1.ConfiguredPolicy` as JSON.
fn value(configured: &ConfiguredPolicy) -> Value {
    let policy = configured.policy.clone().unwrap_or_default();
    let categories = policy.categories.into_iter().map(
        |category| json!({"code": category.code, "name": category.name, "description": category.description}),
    );
    json!({
        "policy": {"name": policy.name, "categories": categories.collect::<Vec<_>>()},
        "digest": configured.digest,
    })
}
