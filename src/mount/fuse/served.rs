//! The threads that take requests from the kernel, and how far they go with each.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::thread::{self, JoinHandle};

use fuser::{Request, Session, SessionACL};
use tokio::runtime::Handle;

use crate::linux::kernel::Owner;
use crate::memory::Buffers;
use crate::mount::asker::Asker;
use crate::mount::fs::Fs;

/// Threads that take requests from the kernel. More than one, so that a copied megabyte does not delay a lookup.
const EVENT_LOOPS: usize = 3;

/// A directory, served to the kernel.
#[derive(Debug)]
pub struct Served {
    pub(super) fs: Arc<Fs>,
    runtime: Handle,
    pub(super) owner: Owner,
    /// Of data that is written.
    pub(super) blocks: Buffers,
}

impl Served {
    /// Serves `fs` with the tasks of `runtime`; everything in it belongs to `owner`.
    pub fn new(fs: Arc<Fs>, runtime: Handle, owner: Owner) -> Self {
        Self {
            blocks: fs.write_buffers(),
            fs,
            runtime,
            owner,
        }
    }

    pub(super) fn asker(request: &Request) -> Option<Asker> {
        Asker::of(request.pid())
    }

    /// Runs a handler on this thread as far as it goes without a wait, and the rest in the runtime.
    pub(super) fn answer(&self, handler: impl Future<Output = ()> + Send + 'static) {
        let _timers_and_tasks = self.runtime.enter();
        let mut handler = Box::pin(handler);
        // Nobody to wake: the runtime asks again at once, and is then the one who is woken.
        let mut begun = Context::from_waker(Waker::noop());
        if handler.as_mut().poll(&mut begun).is_pending() {
            self.runtime.spawn(handler);
        }
    }
}

/// Answers the kernel's first request and serves the mount from threads of its own, until it is unmounted.
///
/// # Errors
/// The kernel speaks no version of the protocol that this program speaks.
pub fn start(fuse: OwnedFd, served: Served) -> io::Result<JoinHandle<io::Result<()>>> {
    let mut config = fuser::Config::default();
    config.n_threads = Some(EVENT_LOOPS);
    // Who may come in is the kernel's business (`allow_other`, `default_permissions`). fuser's own check would refuse
    // the close of a process that has changed its user.
    let session = Session::from_fd(served, fuse, SessionACL::All, config)?;
    thread::Builder::new()
        .name("fuse".into())
        .spawn(move || session.run())
}
