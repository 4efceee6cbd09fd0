//! Who ends, who is killed, and what remains.

use super::*;

#[tokio::test]
async fn rows_survive_kill_9_and_no_process_remains() {
    let scratch = Scratch::new();
    let mut acknowledged = 0;
    for round in 0..3 {
        if round > 0 {
            // Everything said to be committed is there.
            let cluster = Cluster::start(scratch.dir()).await.unwrap();
            assert!(count(&cluster).await > acknowledged);
            let mut connection = connect(&cluster).await;
            sqlx::query("truncate rows")
                .execute(&mut connection)
                .await
                .unwrap();
            connection.close().await.unwrap();
            cluster.stop().await;
            assert_eq!(processes_of(&scratch.dir()), [], "stop waits");
        }
        let mut host = Host::spawn(&scratch.dir(), "rows");
        assert!(host.hear("ready").starts_with("true"));
        while acknowledged < 50 * (round + 1) {
            acknowledged = host.hear("row").parse().unwrap();
        }
        host.kill();
        let last = std::iter::from_fn(|| host.hear("row").parse().ok()).last();
        acknowledged = last.unwrap_or(acknowledged);
        if round != 1 {
            wait_until_gone(&scratch.dir()).await;
        }
    }
}

#[tokio::test]
async fn a_start_can_meet_its_predecessor_shutting_down() {
    let scratch = Scratch::new();
    throwaway(&scratch.dir()).await.stop().await;
    for _ in 0..5 {
        let mut host = Host::spawn(&scratch.dir(), "idle");
        host.hear("ready");
        host.kill();
        let cluster = throwaway(&scratch.dir()).await;
        assert!(cluster.is_owner());
        let mut connection = connect(&cluster).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        connection
            .ping()
            .await
            .expect("not the server of the predecessor");
        cluster.stop().await;
    }
    // The same, where the predecessor is a dropped handle of our own.
    drop(throwaway(&scratch.dir()).await);
    let cluster = throwaway(&scratch.dir()).await;
    let mut connection = connect(&cluster).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    connection.ping().await.unwrap();
    cluster.stop().await;
}

#[tokio::test]
async fn a_killed_postmaster_is_started_again() {
    let scratch = Scratch::new();
    let cluster = Cluster::start(scratch.dir()).await.unwrap();
    connect(&cluster).await;
    let first = cluster.postmaster_pid().unwrap();
    signal("-KILL", first);
    wait_until("another postmaster is ready", || {
        cluster.is_owner() && cluster.postmaster_pid().is_some_and(|pid| pid != first)
    })
    .await;
    assert_eq!(count(&cluster).await, 0);
    cluster.stop().await;
    wait_until_gone(&scratch.dir()).await;
}

#[tokio::test]
async fn a_stale_pid_file_does_not_keep_the_next_start_out() {
    let scratch = Scratch::new();
    // Host, watchdog and postmaster, all killed at once.
    let mut host = Host::spawn(&scratch.dir(), "idle");
    host.hear("ready");
    signal("-STOP", host.process.id());
    let dir = scratch.dir().join("data");
    for (pid, line) in processes_of(&dir) {
        if line.contains(" -D ") {
            signal("-KILL", pid);
        }
    }
    host.kill();
    assert!(dir.join("postmaster.pid").exists());
    throwaway(&scratch.dir()).await.stop().await;

    // The number in the file belongs to an unrelated process of the same user by now.
    let owner = fs::metadata(&dir).unwrap();
    let mut other = Command::new("sleep");
    if is_root() {
        use std::os::unix::fs::MetadataExt;
        other.uid(owner.uid()).gid(owner.gid());
    }
    let mut other = other.arg("600").current_dir("/").spawn().unwrap();
    let text = format!(
        "{}\n{}\n1\n5432\n\n\n  1 1\nready\n",
        other.id(),
        dir.display()
    );
    fs::write(dir.join("postmaster.pid"), text).unwrap();
    let cluster = tokio::time::timeout(Duration::from_secs(20), throwaway(&scratch.dir())).await;
    other.kill().unwrap();
    other.wait().unwrap();
    cluster
        .expect("starts although the number is taken")
        .stop()
        .await;
}

#[tokio::test]
async fn a_server_that_lost_its_watchdog_is_replaced() {
    let scratch = Scratch::new();
    let mut host = Host::spawn(&scratch.dir(), "idle");
    host.hear("ready");
    // Stopped, so that it does not repair what is done to it.
    signal("-STOP", host.process.id());
    for (pid, line) in processes_of(&scratch.dir()) {
        if line.starts_with("/bin/sh") {
            signal("-KILL", pid);
        }
    }
    host.kill();
    let cluster = throwaway(&scratch.dir()).await;
    connect(&cluster).await;
    cluster.stop().await;
    wait_until_gone(&scratch.dir()).await;
}

#[tokio::test]
async fn a_second_process_attaches_and_takes_over() {
    for end in ["killed", "ended"] {
        let scratch = Scratch::new();
        let mut host = Host::spawn(&scratch.dir(), "idle");
        assert!(host.hear("ready").starts_with("true"));
        let attached = throwaway(&scratch.dir()).await;
        assert!(!attached.is_owner());
        connect(&attached).await;
        let mut third = Host::spawn(&scratch.dir(), "idle");
        assert!(third.hear("ready").starts_with("false"));

        if end == "killed" {
            host.kill();
        } else {
            host.process.stdin.take();
            assert_eq!(host.hear("owner"), "true");
        }
        // One of the two takes over, and both can use it.
        let options = attached.options("postgres");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut answer = options.connect().await;
        for _ in 0..500 {
            if answer.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            answer = options.connect().await;
        }
        answer.expect("the server is back").close().await.unwrap();
        // After the third has gone too, it is ours for certain.
        third.kill();
        wait_until("we own the server", || attached.is_owner()).await;
        assert_eq!(count(&attached).await, 0);
        attached.stop().await;
        wait_until_gone(&scratch.dir()).await;
    }
}

#[tokio::test]
async fn ten_handles_at_once_share_one_server() {
    let scratch = Scratch::new();
    let starts: Vec<_> = (0..10)
        .map(|_| {
            let dir = scratch.dir();
            tokio::spawn(async move { throwaway(&dir).await })
        })
        .collect();
    let mut owners = 0;
    let mut clusters = Vec::new();
    for start in starts {
        let cluster = start.await.unwrap();
        owners += u32::from(cluster.is_owner());
        connect(&cluster).await;
        clusters.push(cluster);
    }
    assert_eq!(owners, 1);
    drop(clusters);
    wait_until_gone(&scratch.dir()).await;
}

#[tokio::test]
async fn a_kill_during_initdb_leaves_nothing_half_made() {
    let scratch = Scratch::new();
    let begun = || {
        let names = fs::read_dir(scratch.dir()).into_iter().flatten().flatten();
        names
            .map(|entry| entry.file_name().into_string().unwrap())
            .any(|name| name.starts_with("initdb-"))
    };
    for delay in [0, 30, 150, 400] {
        let mut host = Host::spawn(&scratch.dir(), "rows");
        wait_until("initdb runs", begun).await;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        host.kill();
        if scratch.dir().join("data").exists() {
            // A fast machine: it was complete before the kill.
            break;
        }
    }
    let cluster = Cluster::start(scratch.dir()).await.unwrap();
    assert_eq!(count(&cluster).await, 0);
    cluster.stop().await;
    wait_until_gone(&scratch.dir()).await;
    throwaway(&scratch.dir()).await.stop().await;
    assert!(!begun(), "what was left has been removed");
}

#[tokio::test]
async fn a_dropped_start_leaves_no_server() {
    let scratch = Scratch::new();
    for patience in [20, 300, 500, 700, 900, 50, 90, 120] {
        let patience = Duration::from_millis(patience);
        let _ = tokio::time::timeout(patience, throwaway(&scratch.dir())).await;
    }
    wait_until_gone(&scratch.dir()).await;
}
