//! The threads of this process.

use super::fleet::LIMIT;

/// Threads of this process whose names begin so. The system keeps 15 characters of a name.
pub(crate) fn threads_named(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task");
    tasks
        .unwrap_or_else(|error| panic!("the threads of this process cannot be listed: {error}"))
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}

pub(crate) fn no_thread_named(prefix: &str) {
    super::wait::until("the threads are gone", LIMIT, || threads_named(prefix) == 0);
}
