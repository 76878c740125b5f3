//! `models fetch`: files of models on this machine, and the command that serves them.

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::Context as _;
use serde_json::json;

use crate::{
    cli::{
        CommandError, Exit, Format, Global,
        output::{print_json, print_line, tell},
    },
    errors::with_causes,
    fetch::{
        self, FetchedModel, HubAddress, HubModel, ModelFetch, ModelForm, ModelName, Revision, WantedFile,
    },
    files,
    gguf::Gguf,
    guard::{GuardEvidence, GuardKind, model_names},
    memory::human_bytes,
    model::{EncoderKind, open_decoder, verdict_heads_of},
    secret::{Secret, warn_if_exposed},
    text::ChatTemplate,
};

/// Most bytes of a file with a token.
const MAX_TOKEN_FILE_BYTES: u64 = 4096;

/// Which model or file to fetch; the demo's model if nothing is given.
#[derive(Debug, clap::Args)]
pub(super) struct FetchArgs {
    /// A repository of a Hugging Face hub, as OWNER/NAME, with :FILE for one of its GGUF files: its name, a pattern such as *Q8_0*,
    /// or a quantisation such as Q4_K_M. Or the short name of a guard, such as qwen3guard-gen-0.6b
    #[arg(value_name = "REPO[:FILE]", conflicts_with_all = ["sha256", "url"])]
    name: Option<Wanted>,
    /// Branch, tag or commit of the repository [default: main]
    #[arg(long, value_name = "REVISION", requires = "name")]
    revision: Option<Revision>,
    /// Folder for the files of the repository, instead of the cache; with --sha256 the place of a file of yours. What appears
    /// there is complete and checked
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Address of the hub, instead of HF_ENDPOINT or https://huggingface.co
    #[arg(long, value_name = "URL", requires = "name")]
    endpoint: Option<HubAddress>,
    /// File with a token of the hub, instead of HF_TOKEN: for what it does not give to everybody
    #[arg(long, value_name = "FILE", requires = "name")]
    token_file: Option<PathBuf>,
    /// Digest of a file of yours, as sha256sum prints it
    #[arg(long, value_name = "DIGEST", requires = "to", value_parser = fetch::parse_digest)]
    sha256: Option<String>,
    /// Where it can be had from; without it the file has to be there already, and is only checked
    #[arg(long, value_name = "URL", requires = "sha256")]
    url: Option<String>,
}

/// What a caller names: a repository, or one of the guards that have short names.
#[derive(Debug, Clone)]
struct Wanted(ModelName);

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.contains('/') {
            true => text.parse().map(Self),
            false => text.parse().map(|guard: HubModel| Self(guard.repository())),
        }
    }
}

/// Fetches what is asked for, unless it is there, and prints its path.
pub(super) fn run(args: FetchArgs, global: &Global) -> anyhow::Result<Exit> {
    global.init_logs();
    let path = match (args.name, args.to, args.sha256) {
        (Some(Wanted(name)), to, _) => {
            let wanted = ModelFetch {
                revision: args.revision.unwrap_or_default(),
                to,
                endpoint: args.endpoint,
                token: args.token_file.as_deref().map(token).transpose()?,
                ..ModelFetch::new(name)
            };
            return fetch_model(&wanted, global);
        }
        (None, Some(path), Some(sha256)) => {
            let url = args.url;
            let wanted = WantedFile { path, sha256, url };
            wanted.ensure(global.progress())?;
            wanted.path
        }
        (None, Some(_), None) => {
            return Err(CommandError::usage(
                "--to needs the repository whose files are to be there, as OWNER/NAME, or the --sha256 of a file of yours",
            )
            .into());
        }
        (None, None, _) => fetch::smollm2(global.progress())?,
    };
    let path = utf8(&path)?;
    match global.format {
        Format::Human => print_line(path)?,
        Format::Json | Format::Jsonl => print_json(global.format, &json!({"path": path}))?,
    }
    Ok(Exit::Done)
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path is not UTF-8")
}

fn token(path: &Path) -> Result<Secret, CommandError> {
    let wrong = |what: &str| CommandError::invalid_data(format!("--token-file {}: {what}", path.display()));
    let text = files::read_text(path, MAX_TOKEN_FILE_BYTES).map_err(|error| wrong(&error.to_string()))?;
    warn_if_exposed(path);
    let text = Secret::new(text);
    let token = text.expose().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(
            "it holds no token; write one in a line of letters, digits and signs",
        ));
    }
    Ok(Secret::new(token.to_owned()))
}

fn fetch_model(wanted: &ModelFetch, global: &Global) -> anyhow::Result<Exit> {
    let model = wanted.run(global.progress())?;
    let path = utf8(&model.path)?;
    let served = serve_line(&model, &wanted.name, &given(path));
    match global.format {
        Format::Human => print_line(path)?,
        Format::Json | Format::Jsonl => {
            let files: Vec<_> = model
                .files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            let value = json!({
                "path": path,
                "repository": wanted.name.repository(),
                "commit": model.commit,
                "licence": model.licence,
                "gate": model.gate.name(),
                "bytes": model.bytes,
                "files": files,
                "serve": served.as_ref().ok(),
            });
            print_json(global.format, &value)?;
        }
    }
    if !global.quiet && global.format == Format::Human {
        // On standard error: the path alone is for a command that is given it.
        tell(format_args!("{} of {}", human_bytes(model.bytes), wanted.name));
        match &served {
            Ok(line) => tell(format_args!("serve it with\n  {line}")),
            Err(why) => tell(format_args!("this program cannot serve it: {why}")),
        }
    }
    Ok(Exit::Done)
}

/// How the shell is given a path.
fn given(path: &str) -> String {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '=' | ',');
    match path.chars().all(is_plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// The command line that serves a model, or why there is none. `path` is as the shell is given it.
fn serve_line(model: &FetchedModel, name: &ModelName, path: &str) -> Result<String, String> {
    let program = env::args_os()
        .next()
        .and_then(|program| program.into_string().ok());
    let program = given(program.as_deref().unwrap_or("babelward"));
    let id = id_of(name);
    let what = match model.form {
        ModelForm::Adapter => format!("--model base=PATH_OF_ITS_BASE --adapter {id}=base:{path}"),
        ModelForm::Folder if EncoderKind::detect(&model.path).is_some() => format!("--model {id}={path}"),
        ModelForm::Folder | ModelForm::Gguf => {
            let layers = open_decoder(&model.path, |config, _| Ok(config.layers.len()));
            let layers = layers.map_err(|error| with_causes(&error))?;
            match guard_of(model, name, layers) {
                KnownGuard::ByFiles => format!("--guard {id}={path}"),
                KnownGuard::ByRepository(kind) => format!("--guard {id}={path} --guard-kind {kind}"),
                KnownGuard::None => format!("--model {id}={path}"),
            }
        }
    };
    Ok(format!("{program} serve {what} --http-listen 127.0.0.1:8080"))
}

/// The id by which a model is served: its name in small letters.
fn id_of(name: &ModelName) -> String {
    name.short().to_ascii_lowercase()
}

/// Whether a model is a guard that is known.
enum KnownGuard {
    None,
    /// `serve` finds out which by the files.
    ByFiles,
    /// Only the repository's name tells which.
    ByRepository(GuardKind),
}

fn guard_of(model: &FetchedModel, name: &ModelName, layers: usize) -> KnownGuard {
    if verdict_heads_of(&model.path).is_ok_and(|heads| heads.is_some()) {
        return KnownGuard::ByFiles;
    }
    let template = match model.form {
        ModelForm::Gguf => Gguf::open(&model.path)
            .ok()
            .and_then(|gguf| ChatTemplate::from_gguf(&gguf).ok()),
        ModelForm::Folder | ModelForm::Adapter => ChatTemplate::from_folder(&model.path).ok(),
    };
    let template = template.flatten();
    let detect = |names: &[String]| {
        GuardKind::detect(&GuardEvidence {
            template: template.as_ref().map(ChatTemplate::source),
            names,
            layers,
        })
    };
    match detect(&model_names(&model.path)) {
        Some(_) => KnownGuard::ByFiles,
        None => detect(&[name.short().to_owned()]).map_or(KnownGuard::None, KnownGuard::ByRepository),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_a_shell_would_read_more_than_a_path() {
        assert_eq!(given("/a/b-c_d.gguf"), "/a/b-c_d.gguf");
        assert_eq!(given("/my models/$x"), "'/my models/$x'");
        assert_eq!(given("/it's"), r"'/it'\''s'");
    }

    #[test]
    fn a_token_is_one_line_and_a_file_without_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "hf_abc\n").unwrap();
        assert_eq!(token(&path).unwrap().expose(), "hf_abc");
        for wrong in ["", "\n", "two words", "hf_ü"] {
            std::fs::write(&path, wrong).unwrap();
            let error = token(&path).unwrap_err().to_string();
            assert!(
                error.contains("--token-file") && !error.contains("two words"),
                "{error}"
            );
        }
    }
}
