/* Marks: the rare paths, by name, counted wherever they are taken, so that tests can tell whether
 * they have come by. A path without which the tests would be as green as before is tested by luck.
 *
 *   X(name, suite)
 *
 * suite   the one that must come by it: `sim` in the seeds of its storm, others in their cases.
 *         test/marks.py holds what the suites have counted against this list.
 *
 * Checked builds only; in others nothing is left of a mark. The counters are those of the process,
 * over all reactors, and relaxed atomics; a test may have its processes share them. */
#ifndef KR_BASE_MARK_H
#define KR_BASE_MARK_H

#include "base/util.h"

#define KR__MARKS(X)                                                                               \
    /* roof/turn.c */                                                                              \
    X(asked_again, sim)                                                                            \
    X(sq_full, sim)                                                                                \
    X(wait_interrupted, sim)                                                                       \
    X(submit_refused, sim)                                                                         \
    X(enter_failed, door)                                                                          \
    X(cq_overflow, sim)                                                                            \
    X(stale_cqe, slot)                                                                             \
    X(stale_with_buffer, slot)                                                                     \
    X(turn_cqes_spent, sim)                                                                        \
    X(lost, sim)                                                                                   \
    X(forked_inside, owner)                                                                        \
    X(sq_shared, sim)                                                                              \
    /* conn/rest.c */                                                                              \
    X(rested, matrix)                                                                              \
    /* roof/post.c */                                                                              \
    X(sleep_forestalled, sim)                                                                      \
    X(turn_posts_spent, sim)                                                                       \
    X(wake_failed, door)                                                                           \
    X(post_after_the_end, post)                                                                    \
    X(inbox_full, sim)                                                                             \
    X(inbox_full_at_rest, post)                                                                    \
    X(notice_coalesced, post)                                                                      \
    /* kernel/plain.c */                                                                           \
    X(close_unsubmitted, table)                                                                    \
    /* pool/slots.c */                                                                             \
    X(accepted_beyond_the_range, matrix)                                                           \
    X(accepted_without_a_slot, table)                                                              \
    /* conn/conn.c */                                                                              \
    X(blocked, sim)                                                                                \
    X(reset_for_flights, sim)                                                                      \
    X(flushed_before_the_end, sim)                                                                 \
    X(flush_lost, sim)                                                                             \
    X(reset_while_closing, sim)                                                                    \
    /* conn/error.c */                                                                             \
    X(broken_while_stopped, early)                                                                 \
    X(broken_while_detached, early)                                                                \
    /* conn/clock.c */                                                                             \
    X(deadline_moved, sim)                                                                         \
    X(not_read_yet, stall)                                                                         \
    X(deadline_sooner, sim)                                                                        \
    X(deadline_told, sim)                                                                          \
    X(deadline_ended, timer)                                                                       \
    X(deadline_reset, sim)                                                                         \
    X(flush_overdue, sim)                                                                          \
    X(looked_again, sim)                                                                           \
    /* conn/table.c */                                                                             \
    X(arrived_at_nobody, sim)                                                                      \
    X(arrival_refused, sim)                                                                        \
    X(successor, slot)                                                                             \
    X(abandoned, sim)                                                                              \
    /* extra/connect.c */                                                                          \
    X(connect_answered_too_late, connect)                                                          \
    X(connect_established_flushing, connect)                                                       \
    X(connect_overdue, connect)                                                                    \
    X(connect_tried_again, connect)                                                                \
    X(pipe_opened_anew, workers)                                                                   \
    /* conn/starve.c */                                                                            \
    X(starved, sim)                                                                                \
    X(gave_way, sim)                                                                               \
    X(tried_in_vain, sim)                                                                          \
    X(still_under_cancel, sim)                                                                     \
    X(tries_unread, sim)                                                                           \
    X(tried_stuck_buffers, matrix)                                                                 \
    X(passed_the_line, sim)                                                                        \
    /* listen/listener.c */                                                                        \
    X(arrival_left, door)                                                                          \
    /* listen/quota.c */                                                                           \
    X(room_short, sim)                                                                             \
    X(batch_fell, sim)                                                                             \
    X(batch_full, accept)                                                                          \
    X(ones_yield, sim)                                                                             \
    X(multishot_yields, sim)                                                                       \
    X(accept_of_a_lost_client, sim)                                                                \
    X(accept_backoff, sim)                                                                         \
    X(accept_backoff_again, sim)                                                                   \
    X(accept_failed_for_good, matrix)                                                              \
    /* listen/backlog.c */                                                                         \
    X(listener_drain_overdue, sim)                                                                 \
    /* conn/reactor.h */                                                                           \
    X(own_share_reached, sim)                                                                      \
    X(share_of_all_reached, sim)                                                                   \
    /* conn/fair.c */                                                                              \
    X(share_exceeded, sim)                                                                         \
    X(share_kept_again, sim)                                                                       \
    /* roof/timers.c */                                                                            \
    X(beats_missed, timer)                                                                         \
    /* roof/catchup.c */                                                                           \
    X(catches_up, sim)                                                                             \
    X(held_up, stall)                                                                              \
    X(caught_up_under_load, sim)                                                                   \
    /* extra/lease.c */                                                                            \
    X(lease_copied, sim)                                                                           \
    /* extra/forward.c */                                                                          \
    X(forward_shuts_down, sim)                                                                     \
    X(forward_limit, forward)                                                                      \
    X(forward_refused, sim)                                                                        \
    X(forward_peer_full, sim)                                                                      \
    X(forward_cut, sim)                                                                            \
    X(forward_one_sided, sim)                                                                      \
    X(forward_after_the_end, forward)                                                              \
    /* extra/descriptors.c */                                                                      \
    X(fds_unwanted, fds)                                                                           \
    X(fds_truncated, sim)                                                                          \
    X(fds_while_closing, sim)                                                                      \
    X(fds_held_back, sim)                                                                          \
    X(fds_lost, fds)                                                                               \
    X(fds_surplus, sim)                                                                            \
    X(fds_purged, sim)                                                                             \
    X(fds_beside_others, foreign)                                                                  \
    /* roof/drain.c */                                                                             \
    X(drain_walks_on, drain)                                                                       \
    X(drain_cuts_off, sim)                                                                         \
    X(drain_leaves_a_pair, drain)                                                                  \
    X(drain_walks_again, sim)                                                                      \
    /* extra/detach.c */                                                                           \
    X(detach_refused, sim)                                                                         \
    X(exported_too_late, matrix)                                                                   \
    X(detach_keeps, sim)                                                                           \
    X(detach_overdue, zerocopy)                                                                    \
    /* extra/sockopt.c */                                                                          \
    X(sockopt_refused, sock)                                                                       \
    X(sockopt_cancelled, sock)                                                                     \
    /* listen/accept.c */                                                                          \
    X(arrival_dropped, sim)                                                                        \
    /* listen/install.c */                                                                         \
    X(install_failed, sim)                                                                         \
    /* conn/cancel.c */                                                                            \
    X(cancel_came_late, sim)                                                                       \
    X(cancel_again, sim)                                                                           \
    /* extra/sendfile.c */                                                                         \
    X(read_short, sim)                                                                             \
    X(read_in_vain, sim)                                                                           \
    X(read_here, sim)                                                                              \
    X(read_by_a_worker, sendfile)                                                                  \
    X(read_failed, sim)                                                                            \
    X(file_too_short, sim)                                                                         \
    X(file_end_met, sim)                                                                           \
    /* conn/recv.c */                                                                              \
    X(kept_closed_up, sim)                                                                         \
    X(stop_left_over, zerocopy)                                                                    \
    X(kept_shrunk, flow)                                                                           \
    X(eof_behind_unconsumed, flow)                                                                 \
    X(kept_grown, sim)                                                                             \
    X(kept_refused, sim)                                                                           \
    X(kept_too_much, sim)                                                                          \
    X(received_while_closing, sim)                                                                 \
    X(eof_held_back, sim)                                                                          \
    X(starved_with_bytes_to_show, sim)                                                             \
    X(recv_failed, sim)                                                                            \
    X(recv_ended_with_data, sim)                                                                   \
    X(read_flags_no_buffer, pipe)                                                                  \
    X(recv_met_nothing, sim)                                                                       \
    /* conn/send.c */                                                                              \
    X(vector_full, ref)                                                                            \
    X(vector_refused, torture)                                                                     \
    X(reservation_ended_by_a_send, reserve)                                                        \
    X(send_failed, sim)                                                                            \
    X(send_refused, sim)                                                                           \
    X(send_met_full, sim)                                                                          \
    X(send_had_room, matrix)                                                                       \
    /* conn/send_poll.c */                                                                         \
    X(send_by_wake, workers)                                                                       \
    /* conn/recv_poll.c */                                                                         \
    X(recv_by_wake, workers)                                                                       \
    /* extra/zerocopy.c */                                                                         \
    X(flight_copied, sim)                                                                          \
    X(flight_refused, sim)                                                                         \
    X(flight_without_notification, sim)                                                            \
    X(flight_result_lost, matrix)                                                                  \
    /* conn/shutdown.c */                                                                          \
    X(shutdown_without_descriptor, sim)                                                            \
    X(shutdown_without_worker, matrix)                                                             \
    X(shutdown_failed, matrix)                                                                     \
    /* conn/unlinger.c */                                                                          \
    X(unlinger_refused, matrix)                                                                    \
    /* pool/blocks.c */                                                                            \
    X(block_not_kept, blocks)                                                                      \
    /* pool/bufs.c */                                                                              \
    X(bufs_doubled, bufs)                                                                          \
    X(bufs_fell, bufs)                                                                             \
    X(bufs_stuck, bufs)                                                                            \
    /* pool/files.c */                                                                             \
    X(chunk_refused, sim)                                                                          \
    /* pool/zc_sends.c */                                                                          \
    X(carried_in_vain, zc_sends)                                                                   \
    X(landed_out_of_order, sim)                                                                    \
    /* pool/sends.c */                                                                             \
    X(copy_in_two_records, sim)                                                                    \
    X(sent_in_part, sim)                                                                           \
    X(fds_not_duplicated, fds)                                                                     \
    X(fds_sent_in_part, sim)                                                                       \
    /* ring/ring.c */                                                                              \
    X(older_ring, door)                                                                            \
    /* roof/reactor.c */                                                                           \
    X(flights_given_up, zerocopy)                                                                  \
    X(given_up, sim)                                                                               \
    X(freed_unrun, owner)                                                                          \
    X(freed_in_a_child, owner)                                                                     \
    X(inherited, owner)

enum kr__mark {
#define X(name, suite) KR__MARK_##name,
    KR__MARKS(X)
#undef X
    KR__MARK_COUNT
};

/* Where they are counted, KR__MARK_COUNT of them; a place of the library's own until a test sets
 * another, before there is any reactor. */
extern uint64_t *kr__marks;

#define kr__mark(name)                                                                             \
    do {                                                                                           \
        if (KR_CHECKED)                                                                            \
            __atomic_fetch_add(&kr__marks[KR__MARK_##name], 1, __ATOMIC_RELAXED);                  \
    } while (0)

/* For a path that is none of its own: `cond` has no side effects. */
#define kr__mark_if(name, cond)                                                                    \
    do {                                                                                           \
        if (KR_CHECKED && (cond))                                                                  \
            kr__mark(name);                                                                        \
    } while (0)

#endif
