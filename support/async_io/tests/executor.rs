//! Executors, rings, files, sockets and timers together. Run as well with `RHEA_IO_URING=off`: [`without_io_uring`].

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt, AsyncWriteExt};
use rhea_async_io::{
    Async, DedicatedThread, Executor, File, IoVector, OpenOptions, Timer, block_on, spawn, unblock,
    unblock_io,
};

fn scratch(name: &str) -> File {
    let path = std::env::temp_dir().join(format!("rhea-aio-{name}-{}", std::process::id()));
    let file = File::open(&path, OpenOptions { write: true, create: true, ..OpenOptions::default() })
        .expect("a file");
    std::fs::remove_file(&path).expect("was just made");
    file
}

/// Polls a future once, then drops it.
fn give_up<F: Future>(future: F) -> bool {
    let mut future = pin!(future);
    future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

#[test]
fn files_read_what_was_written() {
    let file = scratch("files");
    block_on(async {
        let mut tasks = Vec::new();
        for i in 0..300_u64 {
            let file = file.clone();
            tasks.push(spawn(async move {
                let mut data = IoVector::from_slice(&[i as u8; 1000]);
                data.append(IoVector::from_slice(&[!i as u8; 24]));
                file.write_vectored_at(&data.view(), i * 1024).await
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        file.sync_data().await.unwrap();
        let mut data = IoVector::zeroed(1024);
        data.append(IoVector::zeroed(2048));
        assert_eq!(file.read_vectored_at(&mut data, 298 * 1024).await.unwrap(), 2048);
        let mut expected = vec![];
        for i in [298_u64, 299] {
            expected.extend([i as u8; 1000]);
            expected.extend([!i as u8; 24]);
        }
        expected.extend([0; 1024]);
        assert!(data.to_vec() == expected);
        file.fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 0, 4096).await.unwrap();
        let mut data = IoVector::from_slice(&[1; 4096]);
        file.read_vectored_at(&mut data, 0).await.unwrap();
        assert!(data.view().is_zero());
    });
}

#[test]
fn a_dedicated_thread_copies_by_itself() {
    const LEN: usize = 2 << 20;
    let file = scratch("dedicated");
    let poll = |future: &mut std::pin::Pin<&mut dyn Future<Output = std::io::Result<()>>>| {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    };
    block_on(async {
        let data = IoVector::from_slice(&[7; LEN]);
        let _dedicated = DedicatedThread::enter();
        {
            let view = data.view();
            let mut write = pin!(file.write_vectored_at(&view, 4096));
            // Others have their turn before the copying, and nothing is waited for in it.
            assert!(!poll(&mut (write.as_mut() as _)), "copied at once");
            assert!(poll(&mut (write.as_mut() as _)), "waited");
        }
        let mut back = IoVector::zeroed(LEN);
        assert_eq!(file.read_vectored_at(&mut back, 4096).await.unwrap(), LEN);
        assert!(back.to_vec() == data.to_vec());
    });
}

#[test]
fn a_task_that_never_waits_lets_others_run() {
    let file = scratch("turns");
    block_on(async {
        file.write_vectored_at(&IoVector::zeroed(65536).view(), 0).await.unwrap();
        let busy = spawn(async move {
            let mut data = IoVector::zeroed(512);
            loop {
                file.read_vectored_at(&mut data, 0).await.unwrap();
            }
        });
        let begin = Instant::now();
        Timer::after(Duration::from_millis(10)).await;
        assert_eq!(spawn(async { 1 }).await, 1);
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert_eq!(busy.cancel().await, None);
    });
}

#[test]
fn more_segments_than_a_call_takes() {
    let file = scratch("segments");
    let mut data = IoVector::default();
    for i in 0..3000_u32 {
        data.append(IoVector::from_slice(&i.to_le_bytes()));
    }
    block_on(async {
        file.write_vectored_at(&data.view(), 5).await.unwrap();
        let mut back = IoVector::zeroed(12000);
        file.read_vectored_at(&mut back, 5).await.unwrap();
        assert!(back.to_vec() == data.to_vec());
        data.fill(0..12000, 0);
        file.read_vectored_at(&mut data, 5).await.unwrap();
        assert!(back.to_vec() == data.to_vec());
    });
}

#[test]
fn what_is_given_up_keeps_its_memory() {
    let file = scratch("dropped");
    block_on(async {
        // No more than a task may do without waiting.
        for i in 0..15_u64 {
            let data = IoVector::from_slice(&[i as u8; 8192]);
            give_up(file.write_vectored_at(&data.view(), i * 8192));
            drop(data);
            let mut data = IoVector::zeroed(8192);
            give_up(file.read_vectored_at(&mut data, (i / 2) * 8192));
        }
        file.sync_data().await.unwrap();
        // All were begun before this one, but need not end before it.
        Timer::after(Duration::from_millis(50)).await;
        let mut data = IoVector::zeroed(8192);
        file.read_vectored_at(&mut data, 14 * 8192).await.unwrap();
        assert!(data.to_vec() == [14; 8192]);
    });
    // The thread's end waits for what is under way.
    std::thread::spawn(move || {
        block_on(async {
            give_up(file.write_vectored_at(&IoVector::from_slice(&[7; 65536]).view(), 0));
        });
        file
    })
    .join()
    .unwrap();
}

#[test]
fn threads_without_an_executor_can_wait_too() {
    let file = scratch("plain");
    let wait = || async {
        file.write_vectored_at(&IoVector::from_slice(b"hello").view(), 0).await.unwrap();
        let mut data = IoVector::zeroed(5);
        file.read_vectored_at(&mut data, 0).await.unwrap();
        assert_eq!(data.to_vec(), b"hello");
        file.sync_data().await.unwrap();
        let begin = Instant::now();
        Timer::after(Duration::from_millis(20)).await;
        assert!(begin.elapsed() >= Duration::from_millis(20));
        let (mut one, mut other) = Async::<UnixStream>::pair().unwrap();
        let (sent, received) = futures_lite::future::zip(
            async {
                Timer::after(Duration::from_millis(5)).await;
                one.write_all(b"x").await
            },
            async {
                let mut byte = [0];
                other.read_exact(&mut byte).await.map(|()| byte)
            },
        )
        .await;
        sent.unwrap();
        assert_eq!(received.unwrap(), *b"x");
    };
    futures_lite::future::block_on(wait());
    block_on(wait());
}

#[test]
fn sockets_carry_much_both_ways() {
    const LEN: usize = 3 << 20;
    block_on(async {
        let (one, other) = Async::<UnixStream>::pair().unwrap();
        let (one, other) = (Arc::new(one), Arc::new(other));
        let send = |socket: Arc<Async<UnixStream>>, byte: u8| {
            spawn(async move { (&*socket).write_all(&vec![byte; LEN]).await })
        };
        let receive = |socket: Arc<Async<UnixStream>>, byte: u8| {
            spawn(async move {
                let mut bytes = vec![0; LEN];
                (&*socket).read_exact(&mut bytes).await.unwrap();
                assert!(bytes.iter().all(|&b| b == byte));
            })
        };
        let tasks = (
            send(one.clone(), 1),
            send(other.clone(), 2),
            receive(one.clone(), 2),
            receive(other.clone(), 1),
        );
        tasks.0.await.unwrap();
        tasks.1.await.unwrap();
        tasks.2.await;
        tasks.3.await;
        // Waiting in vain, then closing: the other side sees the end although the kernel was still asked to wait.
        give_up(one.readable());
        assert!(give_up((&*one).read(&mut [0])));
        drop(one);
        let read = async { Some((&*other).read(&mut [0]).await.unwrap()) };
        let end = futures_lite::future::or(read, async {
            Timer::after(Duration::from_secs(5)).await;
            None
        });
        assert_eq!(end.await, Some(0));
    });
}

#[test]
fn what_is_closed_is_closed_once_the_executor_is_left() {
    let (one, other) = UnixStream::pair().unwrap();
    block_on(async {
        let one = Async::new(one).unwrap();
        let wait = pin!(one.readable());
        let timer = pin!(Timer::after(Duration::from_millis(5)));
        // The kernel is asked to wait, and waits.
        assert!(matches!(
            futures_lite::future::or(async { wait.await.map(|()| 1) }, async {
                timer.await;
                Ok(2)
            })
            .await,
            Ok(2)
        ));
        drop(one);
    });
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(std::io::Read::read(&mut &other, &mut [0]).unwrap(), 0);
}

#[test]
fn tcp_connects_and_is_refused() {
    block_on(async {
        let server = Async::<std::net::TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = server.get_ref().local_addr().unwrap();
        let (accepted, connected) =
            futures_lite::future::zip(server.accept(), Async::<std::net::TcpStream>::connect(address)).await;
        let ((mut peer, _), mut client) = (accepted.unwrap(), connected.unwrap());
        client.write_all(b"hi").await.unwrap();
        client.close().await.unwrap();
        let mut text = String::new();
        peer.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hi");
        drop(server);
        assert!(Async::<std::net::TcpStream>::connect(address).await.is_err());
    });
}

#[test]
fn timers_end_in_order_and_dropped_ones_do_not_matter() {
    block_on(async {
        let order = Arc::new(parking_lot::Mutex::new(vec![]));
        let mut tasks = vec![];
        for ms in [30, 10, 20] {
            let order = order.clone();
            tasks.push(spawn(async move {
                Timer::after(Duration::from_millis(ms)).await;
                order.lock().push(ms);
            }));
        }
        assert!(give_up(Timer::after(Duration::from_millis(1))));
        assert!(give_up(Timer::never()));
        assert!(give_up(Timer::after(Duration::MAX)));
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.lock(), [10, 20, 30]);
    });
}

#[test]
fn other_threads_wake_and_are_woken() {
    let executor = Executor::start("test").unwrap();
    let file = scratch("executor");
    let counter = Arc::new(AtomicUsize::new(0));
    block_on(async {
        for round in 0..2000_u64 {
            let (file, counter) = (file.clone(), counter.clone());
            let task = executor.spawn(async move {
                let data = IoVector::from_slice(&round.to_le_bytes());
                file.write_vectored_at(&data.view(), round * 8).await.unwrap();
                counter.fetch_add(1, SeqCst);
                round
            });
            let work = unblock(move || round);
            let io = unblock_io(move || round);
            assert_eq!((task.await, work.await, io.await), (round, round, round));
        }
    });
    assert_eq!(counter.load(SeqCst), 2000);
    // A task that never ends goes with its executor.
    struct Gone(Arc<AtomicUsize>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let gone = Gone(counter.clone());
    executor
        .spawn(async move {
            let _gone = gone;
            let (one, _other) = Async::<UnixStream>::pair().unwrap();
            let _ = futures_lite::future::zip(one.readable(), Timer::after(Duration::from_secs(1000))).await;
        })
        .detach();
    block_on(executor.spawn(async {}));
    executor.stop();
    assert_eq!(counter.load(SeqCst), 2001);
}

#[test]
fn a_future_may_move_to_another_thread() {
    let (one, other) = Async::<UnixStream>::pair().unwrap();
    let mut wait = Box::pin(async move {
        Timer::after(Duration::from_millis(10)).await;
        one.readable().await.unwrap();
        one
    });
    block_on(async {
        let polled = wait.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending));
    });
    let executor = Executor::start("elsewhere").unwrap();
    let task = executor.spawn(wait);
    block_on(async {
        Timer::after(Duration::from_millis(30)).await;
        let mut other = other;
        other.write_all(b"x").await.unwrap();
        task.await;
    });
}

#[test]
fn a_cancelled_task_is_gone() {
    block_on(async {
        let task = spawn(Timer::after(Duration::from_secs(1000)));
        assert!(!task.is_finished());
        assert_eq!(task.cancel().await, None);
        drop(spawn(Timer::never()));
        let ended = spawn(async { 5 });
        Timer::after(Duration::from_millis(1)).await;
        assert_eq!(ended.cancel().await, Some(5));
    });
}

#[test]
fn block_on_within_block_on() {
    block_on(async {
        let task = spawn(async { block_on(async { spawn(async { 1 }).await + 1 }) });
        assert_eq!(task.await, 2);
    });
}

#[test]
#[should_panic(expected = "out of the pool")]
fn a_panic_in_the_pool_goes_on_in_the_caller() {
    block_on(unblock(|| panic!("out of the pool")));
}

#[test]
fn what_is_given_up_does_not_replace_what_comes_later() {
    let file = scratch("later");
    block_on(async {
        for round in 0..60_u8 {
            // Long enough not to be done at once.
            let old = IoVector::from_slice(&vec![0xee; 1 << 20]);
            give_up(file.write_vectored_at(&old.view(), 0));
            give_up(file.work_on(|file| file.write_now(0, &vec![0xdd; 1 << 20])));
            let new = IoVector::from_slice(&[round; 512]);
            file.write_vectored_at(&new.view(), 4096 * u64::from(round % 7)).await.unwrap();
            file.sync_data().await.unwrap();
            Timer::after(Duration::from_millis(2)).await;
            let mut back = IoVector::scratch(512);
            file.read_vectored_at(&mut back, 4096 * u64::from(round % 7)).await.unwrap();
            assert_eq!(back.to_vec(), [round; 512]);
        }
        assert!(file.is_settled());
    });
    // A thread that has left its executor does not leave others waiting.
    block_on(async {
        give_up(file.write_vectored_at(&IoVector::from_slice(&vec![1; 1 << 20]).view(), 0));
    });
    futures_lite::future::block_on(file.settled());
}

#[test]
fn many_at_once_on_several_threads() {
    const LEN: usize = 100 << 10;
    let file = scratch("several");
    let executors: Vec<_> = (0..3).map(|i| Executor::start(&format!("several-{i}")).unwrap()).collect();
    block_on(async {
        let mut tasks = vec![];
        for i in 0..120_usize {
            let file = file.clone();
            tasks.push(executors[i % 3].spawn(async move {
                let offset = (i * LEN) as u64;
                for round in 0..8 {
                    let byte = (i + round) as u8;
                    let data = IoVector::from_slice(&vec![byte; LEN]);
                    file.write_vectored_at(&data.view(), offset).await.unwrap();
                    let mut back = IoVector::scratch(LEN);
                    // Given up here and there, with the kernel at work on it.
                    give_up(file.read_vectored_at(&mut back, offset));
                    let mut back = IoVector::scratch(LEN);
                    file.read_vectored_at(&mut back, offset).await.unwrap();
                    assert!(back.as_slice().unwrap().iter().all(|&b| b == byte));
                }
            }));
        }
        // More waiting at once than the queues have entries.
        let pairs: Vec<_> = (0..300).map(|_| Async::<UnixStream>::pair().unwrap()).collect();
        let (ends, others): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let waiting: Vec<_> = ends
            .into_iter()
            .map(|mut end| {
                spawn(async move {
                    let mut byte = [0];
                    end.read_exact(&mut byte).await.unwrap();
                    byte[0]
                })
            })
            .collect();
        Timer::after(Duration::from_millis(5)).await;
        for (i, mut other) in others.into_iter().enumerate() {
            other.write_all(&[i as u8]).await.unwrap();
        }
        for (i, task) in waiting.into_iter().enumerate() {
            assert_eq!(task.await, i as u8);
        }
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn a_panic_in_a_task_is_its_waiters_own() {
    let executor = Executor::start("panics").unwrap();
    let task = executor.spawn(async { panic!("as the test wants it") });
    executor.spawn(async { panic!("as the test wants it, nobody looking") }).detach();
    let result = std::thread::spawn(move || block_on(task)).join();
    assert!(result.is_err());
    assert_eq!(block_on(executor.spawn(async { 3 })), 3);
}

/// All the tests once more where io_uring seems to be missing.
#[test]
fn without_io_uring() {
    if std::env::var_os("RHEA_IO_URING").is_some() {
        return;
    }
    let this = std::env::current_exe().expect("the test's own path");
    let output =
        std::process::Command::new(this).env("RHEA_IO_URING", "off").output().expect("it starts again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
