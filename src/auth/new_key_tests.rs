//! Changes of a file of keys, also when several commands make them at once.

use super::*;
use crate::auth::Scope;

fn entry(id: &str) -> NewKey {
    NewKey {
        id: id.to_owned(),
        tenant: Tenant::named("team").unwrap(),
        scopes: [Scope::Classify, Scope::Score].into_iter().collect(),
        expires: None,
    }
}

#[test]
fn keys_have_256_bits_and_are_never_the_same() {
    let [one, two] = [(); 2].map(|()| generate_key().unwrap());
    assert_ne!(one.expose(), two.expose());
    let bits = URL_SAFE_NO_PAD.decode(one.expose().strip_prefix("bw_").unwrap());
    assert_eq!(bits.unwrap().len(), 32);
}

#[test]
fn keys_are_added_and_removed_and_everything_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let key = generate_key().unwrap();
    append_key(&path, &key, &entry("first")).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(&path).unwrap();
    assert!(!written.contains(key.expose()), "{written}");
    fs::write(&path, format!("# ours\n{written}")).unwrap();
    let later = NewKey {
        expires: Some("2030-01-01T00:00:00Z".parse().unwrap()),
        ..entry("second")
    };
    append_key(&path, &generate_key().unwrap(), &later).unwrap();
    let before = fs::read_to_string(&path).unwrap();
    let twice = append_key(&path, &generate_key().unwrap(), &entry("second")).unwrap_err();
    assert!(twice.to_string().contains("another entry has this id"), "{twice}");
    assert_eq!(fs::read_to_string(&path).unwrap(), before);
    let listed = listed_keys(&path).unwrap();
    let [first, second] = &listed[..] else {
        panic!("{listed:?}");
    };
    assert_eq!(first, &["first", "key", "team", "classify,score", "never"]);
    assert_eq!(second[4], "2030-01-01T00:00:00Z");
    assert!(remove_key(&path, "first").unwrap());
    assert!(!remove_key(&path, "first").unwrap());
    let left = fs::read_to_string(&path).unwrap();
    assert!(left.starts_with("# ours\n") && left.contains("second"), "{left}");
    assert_eq!(listed_keys(&path).unwrap().len(), 1);
}

#[test]
fn commands_that_run_at_the_same_time_lose_no_key_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    append_key(&path, &generate_key().unwrap(), &entry("revoked")).unwrap();
    let begin = std::sync::Barrier::new(9);
    thread::scope(|scope| {
        for number in 0..8 {
            let (path, begin) = (&path, &begin);
            scope.spawn(move || {
                let key = generate_key().unwrap();
                begin.wait();
                append_key(path, &key, &entry(&format!("k{number}"))).unwrap();
            });
        }
        begin.wait();
        assert!(remove_key(&path, "revoked").unwrap());
    });
    let listed = listed_keys(&path).unwrap();
    let mut ids: Vec<_> = listed.into_iter().map(|[id, ..]| id).collect();
    ids.sort();
    assert_eq!(ids, ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"]);
}

#[test]
fn what_a_killed_command_has_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    fs::write(folder.path().join("keys.toml.new"), "half of an entr").unwrap();
    append_key(&path, &generate_key().unwrap(), &entry("a")).unwrap();
    assert!(remove_key(&path, "a").unwrap());
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_changed_file_belongs_to_whom_it_belonged_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    append_key(&path, &generate_key().unwrap(), &entry("a")).unwrap();
    // As `sudo babelward keys revoke` finds the file of a server that runs as another user. Whoever is not root can give
    // files to groups of their own only.
    let others = rustix::process::getgroups().unwrap();
    let group = others
        .last()
        .map_or_else(|| rustix::process::getgid().as_raw(), |group| group.as_raw());
    let (user, group) = match rustix::process::geteuid().is_root() {
        true => (Some(12_345), Some(12_346)),
        false => (None, Some(group)),
    };
    fchown(File::open(&path).unwrap(), user, group).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&path).unwrap();
    assert!(remove_key(&path, "a").unwrap());
    let after = fs::metadata(&path).unwrap();
    assert_ne!(after.ino(), before.ino());
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    assert_eq!(after.mode() & 0o777, 0o640);
}

#[test]
fn comments_stay_when_the_entry_above_them_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    for id in ["first", "second", "third"] {
        append_key(&path, &generate_key().unwrap(), &entry(id)).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace(
        "[[keys]]\nid = \"second\"",
        "# Of the second.\n\n# Ask them.\n[[keys]]\nid = \"second\"",
    );
    fs::write(&path, format!("# All.\n{text}# The end.\n")).unwrap();
    assert!(remove_key(&path, "first").unwrap());
    assert!(remove_key(&path, "third").unwrap());
    let left = fs::read_to_string(&path).unwrap();
    for comment in [
        "# All.\n",
        "# Of the second.\n\n# Ask them.\n[[keys]]\n",
        "# The end.\n",
    ] {
        assert!(left.contains(comment), "{left}");
    }
    assert_eq!(listed_keys(&path).unwrap().len(), 1);
}
