//! `keys`: the file of API keys that `auth.keys_file` names.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{
    CommandError, Exit, Format, Global,
    output::{print_json, print_line, print_list, table, tell},
};
use crate::{
    auth::{NewKey, Scope, append_key, generate_key, has_key, listed_keys, remove_key},
    engine::Tenant,
};

/// Make, list and revoke API keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key, print it once, and add its hash to the file
    ///
    /// The key itself is written nowhere else: keep it where its user finds it. A server that has the file takes the key
    /// within server.reload_interval, or at once when it gets SIGHUP.
    New(NewArgs),
    /// List the entries of the file
    #[command(visible_alias = "list")]
    Ls(FileArgs),
    /// Remove an entry from the file
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// File of keys, as in auth.keys_file
    #[arg(long, value_name = "FILE", default_value = "keys.toml")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Tenant on whose account the key's user works
    #[arg(long, value_name = "NAME", value_parser = tenant)]
    tenant: Tenant,
    /// What the key allows, separated by commas: classify, generate, score, admin, metrics
    #[arg(long, value_name = "SCOPES", required = true, value_delimiter = ',')]
    scopes: Vec<Scope>,
    /// Name of the entry; the tenant's name unless given
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// When the key stops being valid, such as 2027-01-31T00:00:00Z; never unless given
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Name of the entry
    id: String,
}

fn tenant(text: &str) -> Result<Tenant, String> {
    let wrong = || {
        format!(
            "write 1 to {} letters, digits, `.`, `_` and `-`",
            Tenant::MAX_BYTES
        )
    };
    Tenant::named(text).ok_or_else(wrong)
}

/// Changes or lists the file.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::New(args) => new(args, global),
        Command::Ls(args) => list(&args, global),
        Command::Revoke(args) => revoke(&args, global),
    }
}

fn new(args: NewArgs, global: &Global) -> anyhow::Result<Exit> {
    let NewArgs {
        file: FileArgs { file },
        tenant,
        scopes,
        id,
        expires,
    } = args;
    let entry = NewKey {
        id: id.unwrap_or_else(|| tenant.to_string()),
        tenant,
        scopes: scopes.into_iter().collect(),
        expires,
    };
    let key = generate_key()?;
    append_key(&file, &key, &entry)?;
    match global.format {
        Format::Human => print_line(key.expose())?,
        Format::Json | Format::Jsonl => print_json(
            global.format,
            &json!({
                "key": key.expose(),
                "id": entry.id,
                "tenant": entry.tenant.to_string(),
                "scopes": entry.scopes.iter().map(Scope::name).collect::<Vec<_>>(),
            }),
        )?,
    }
    if !global.quiet {
        tell(format_args!(
            "This is the key `{}`. It is not shown again; {} has only its hash.",
            entry.id,
            file.display()
        ));
    }
    Ok(Exit::Done)
}

fn list(args: &FileArgs, global: &Global) -> anyhow::Result<Exit> {
    let entries = listed_keys(&args.file)?;
    match global.format {
        Format::Human => {
            let mut rows = vec![
                ["ID", "KIND", "TENANT", "SCOPES", "EXPIRES"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(entries.into_iter().map(|entry| entry.to_vec()));
            print_line(&table(&rows))?;
        }
        Format::Json | Format::Jsonl => {
            let values = entries.into_iter().map(|[id, kind, tenant, scopes, expires]| {
                let scopes: Vec<Value> = scopes.split(',').map(Value::from).collect();
                json!({"id": id, "kind": kind, "tenant": tenant, "scopes": scopes, "expires": expires})
            });
            print_list(global.format, values.collect())?;
        }
    }
    Ok(Exit::Done)
}

fn revoke(args: &RevokeArgs, global: &Global) -> anyhow::Result<Exit> {
    let (file, id) = (&args.file.file, &args.id);
    if !remove_key(file, id)? {
        let file = file.display();
        let message = match has_key(id) {
            true => format!("this looks like a key, and {file} has ids; `babelward keys ls` lists them"),
            false => format!("{file} has no entry `{id}`; `babelward keys ls` lists them"),
        };
        return Err(CommandError::usage(message).into());
    }
    if !global.quiet {
        tell(format_args!("`{id}` is no longer in {}.", file.display()));
    }
    Ok(Exit::Done)
}
