//! Directories, accounts and environments.

use super::*;

#[tokio::test]
async fn an_ordinary_user_runs_it_as_itself() {
    if !is_root() {
        // Then all the other tests are this one.
        return;
    }
    let scratch = Scratch::new();
    let exe = scratch.0.join("tests");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let dir = scratch.dir();
    fs::create_dir(&dir).unwrap();
    chown(&dir, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
    // Where Postgres is downloaded to, if the machine has none.
    let home = scratch.0.join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    let as_nobody = |command: &mut Command| {
        command.uid(65534).gid(65534).env("HOME", &home);
        command.env_remove("XDG_CACHE_HOME");
    };
    let mut host = Host::spawn_with(&dir, "idle", &exe, as_nobody);
    assert_eq!(host.hear("ready"), format!("true {}", dir.display()));
    // Root attaches, takes over as the same account, and leaves nothing that nobody cannot use.
    let cluster = throwaway(&dir).await;
    assert!(!cluster.is_owner());
    host.kill();
    wait_until("root owns the server", || cluster.is_owner()).await;
    connect(&cluster).await;
    cluster.stop().await;
    let mut host = Host::spawn_with(&dir, "idle", &exe, as_nobody);
    assert!(host.hear("ready").starts_with("true"));
    host.kill();
    wait_until_gone(&dir).await;
}

#[tokio::test]
async fn root_moves_out_of_a_directory_that_the_account_cannot_reach() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let closed = scratch.0.join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let asked = closed.join("cluster");
    let cluster = throwaway(&asked).await;
    let real = cluster.directory().to_owned();
    assert!(cluster.is_relocated() && real.starts_with("/var/tmp/"));
    connect(&cluster).await;
    cluster.stop().await;
    let again = throwaway(&asked).await;
    assert_eq!(again.directory(), real);
    assert_eq!(count(&again).await, 0);
    again.stop().await;
    fs::remove_dir_all(&real).unwrap();

    // An empty directory of our own is given to the account instead.
    let cluster = throwaway(&closed.join("cluster")).await;
    let relocated = cluster.directory().to_owned();
    cluster.stop().await;
    fs::remove_dir_all(relocated).unwrap();
    let own = scratch.0.join("own");
    fs::create_dir(&own).unwrap();
    fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
    let cluster = throwaway(&own).await;
    assert!(!cluster.is_relocated());
    cluster.stop().await;

    // A name that somebody else took first is not used.
    let taken = scratch.0.join("taken");
    fs::create_dir(&taken).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", taken.join("lock")).unwrap();
    let error = Cluster::start(&taken).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn a_long_or_odd_path_gets_a_short_socket() {
    let scratch = Scratch::new();
    for name in ["n".repeat(120), "a b,'\"%é".to_owned()] {
        let cluster = throwaway(&scratch.0.join(name)).await;
        connect(&cluster).await;
        let url = cluster.url("postgres");
        let mut connection = PgConnection::connect(&url).await.unwrap();
        connection.ping().await.unwrap();
        let sockets = cluster.shared.layout.sockets.clone();
        let mode = fs::metadata(&sockets).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        cluster.stop().await;
        fs::remove_dir_all(sockets).unwrap();
    }
}

#[tokio::test]
async fn the_environment_does_not_choose_the_server() {
    let scratch = Scratch::new();
    let exe = std::env::current_exe().unwrap();
    let mut host = Host::spawn_with(&scratch.dir(), "rows", &exe, |command| {
        for name in [
            "PGHOST",
            "PGHOSTADDR",
            "PGUSER",
            "PGDATABASE",
            "PGPASSWORD",
            "PGDATA",
            "PGSSLROOTCERT",
        ] {
            command.env(name, "/nonexistent");
        }
        command.env("PGPORT", "1").env("PGSSLMODE", "verify-full");
        command.env("DATABASE_URL", "postgres://user:secret@192.0.2.1/x");
    });
    assert!(host.hear("ready").starts_with("true"));
    host.hear("row");
    let pid = fs::read_to_string(scratch.dir().join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap();
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("LC_ALL=C") && !environment.contains("secret"));
    assert!(!environment.contains("nonexistent"), "{environment}");
}

#[tokio::test]
async fn without_a_postgres_the_error_says_what_to_type() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.0.join("empty")).unwrap();
    let exe = std::env::current_exe().unwrap();
    let mut host = Host::spawn_with(&scratch.dir(), "idle", &exe, |command| {
        command.env("PORTCULLIS_PG_BIN", scratch.0.join("empty"));
    });
    let error = host.hear("error");
    assert!(error.starts_with("PORTCULLIS_PG_BIN names"), "{error}");
    let error = EmbeddedError::NoServer.to_string();
    assert!(error.contains("apt-get install -y postgresql") && error.contains("DATABASE_URL"));
}

#[tokio::test]
async fn a_broken_cluster_is_an_error_and_not_a_wait() {
    let scratch = Scratch::new();
    throwaway(&scratch.dir()).await.stop().await;
    let data = scratch.dir().join("data");
    let log = scratch.dir().join("log");
    fs::write(&log, vec![b'x'; 9 << 20]).unwrap();
    fs::write(data.join("postgresql.conf"), "no such setting\n").unwrap();
    let error = Cluster::start(scratch.dir()).await.unwrap_err();
    assert!(matches!(error, EmbeddedError::NotReady { .. }), "{error}");
    assert!(
        fs::metadata(&log).unwrap().len() < 1 << 20,
        "the log starts anew"
    );
    fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let error = Cluster::start(scratch.dir()).await.unwrap_err();
    assert!(
        matches!(error, EmbeddedError::WrongVersion { major: 9, .. }),
        "{error}"
    );
}
