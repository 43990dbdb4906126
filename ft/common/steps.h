/*
 * Named steps of the protocol, at which a test can have the process killed: FTVMM_DIE_AT=step or
 * FTVMM_DIE_AT=step:N for the N-th time it is reached. The kill is SIGKILL, as from outside.
 * FTVMM_STOP_AT, likewise: SIGSTOP. FTVMM_HOLD_AT, likewise: the thread that is there stays, while
 * the others go on: it says so by a byte to the Unix socket FTVMM_HOLD, and waits for one, HOLD_S
 * at most.
 */
#ifndef FT_STEPS_H
#define FT_STEPS_H

#define STEP_LIST(X)                                                                               \
	X(HELLO_SENT, "hello-sent")                                                                \
	X(SYNC_BEGIN, "sync-begin")                                                                \
	X(SYNC_DISK, "sync-disk")                                                                  \
	X(SYNC_RAM, "sync-ram")                                                                    \
	X(SYNC_END, "sync-end")                                                                    \
	X(SEAL_BEGIN, "seal-begin")                                                                \
	X(SEAL_PAUSED, "seal-paused")                                                              \
	X(SEAL_CAPTURED, "seal-captured")                                                          \
	X(SEAL_RESUMED, "seal-resumed")                                                            \
	X(SEND_BEGIN, "send-begin")                                                                \
	X(SEND_PAGES, "send-pages")                                                                \
	X(SEND_DISKLOG, "send-disklog")                                                            \
	X(SEND_STATE, "send-state")                                                                \
	X(SEND_END, "send-end")                                                                    \
	X(ACK_RECEIVED, "ack-received")                                                            \
	X(RELEASED, "released")                                                                    \
	X(TWIN_DIFFERS, "twin-differs")                                                            \
	X(TWIN_LET, "twin-let")                                                                    \
	X(TWIN_SUSPENDED, "twin-suspended")                                                        \
	X(TWIN_ROLLED_BACK, "twin-rolled-back")                                                    \
	X(TWIN_LOADED, "twin-loaded")                                                              \
	X(TWIN_RUNS, "twin-runs")                                                                  \
	X(TWIN_MAPPED, "twin-mapped")                                                              \
	X(GOODBYE, "goodbye")                                                                      \
	X(BYE_SAID, "bye-said")                                                                    \
	X(DONE_HEARD, "done-heard")                                                                \
	X(DISMISS_SAID, "dismiss-said")                                                            \
	X(HANDED, "handed")                                                                        \
	X(RUNS_HEARD, "runs-heard")                                                                \
	X(GONE_SAID, "gone-said")                                                                  \
	X(MOVE_NEAR, "move-near")                                                                  \
	X(MOVE_SEALED, "move-sealed")                                                              \
	X(MOVE_FED, "move-fed")                                                                    \
	X(MOVE_IN_STEP, "move-in-step")                                                            \
	X(MOVE_CLAIM, "move-claim")                                                                \
	X(MOVE_WON, "move-won")                                                                    \
	X(MOVE_TOLD, "move-told")                                                                  \
	X(MOVE_DONE, "move-done")                                                                  \
	X(MOVE_KEPT, "move-kept")                                                                  \
	X(MOVE_KNOWN, "move-known")                                                                \
	X(MOVE_LET_GO, "move-let-go")                                                              \
	X(PEER_LOST, "peer-lost")                                                                  \
	X(HELLO_RECEIVED, "hello-received")                                                        \
	X(STAGE_BEGIN, "stage-begin")                                                              \
	X(STAGE_PAGES, "stage-pages")                                                              \
	X(STAGE_STATE, "stage-state")                                                              \
	X(ACK_BEFORE, "ack-before")                                                                \
	X(ACK_SENT, "ack-sent")                                                                    \
	X(COMMIT_MIDDLE, "commit-middle")                                                          \
	X(COMMIT_END, "commit-end")                                                                \
	X(TAKEOVER_CLAIM, "takeover-claim")                                                        \
	X(TAKEOVER_LOAD, "takeover-load")                                                          \
	X(TAKEOVER_LINK, "takeover-link")                                                          \
	X(TAKEOVER_RUN, "takeover-run")                                                            \
	X(RUNS_SAID, "runs-said")                                                                  \
	X(GONE_HEARD, "gone-heard")                                                                \
	X(DRAINED, "drained")                                                                      \
	X(DONE_SAID, "done-said")                                                                  \
	X(DISMISS_HEARD, "dismiss-heard")                                                          \
	X(MIG_OFFERED, "mig-offered")                                                              \
	X(MIG_PAGES, "mig-pages")                                                                  \
	X(MIG_DISK, "mig-disk")                                                                    \
	X(MIG_STOOD, "mig-stood")                                                                  \
	X(MIG_UNLOCKED, "mig-unlocked")                                                            \
	X(MIG_LAST, "mig-last")                                                                    \
	X(MIG_SENT, "mig-sent")                                                                    \
	X(MIG_GO, "mig-go")                                                                        \
	X(MIG_WENT, "mig-went")                                                                    \
	X(MIG_KNOWN, "mig-known")                                                                  \
	X(MIG_BUILT, "mig-built")                                                                  \
	X(MIG_TAKEN, "mig-taken")                                                                  \
	X(MIG_LOCKED, "mig-locked")                                                                \
	X(MIG_LOADED, "mig-loaded")                                                                \
	X(MIG_READY, "mig-ready")                                                                  \
	X(MIG_TOLD, "mig-told")                                                                    \
	X(MIG_RAN, "mig-ran")                                                                      \
	X(MIG_SAID, "mig-said")                                                                    \
	X(MIG_PAIRED, "mig-paired")                                                                \
	X(MIG_SERVES, "mig-serves")                                                                \
	X(MIG_PUSHED, "mig-pushed")                                                                \
	X(MIG_ANSWERED, "mig-answered")                                                            \
	X(MIG_EOS, "mig-eos")                                                                      \
	X(MIG_CUT, "mig-cut")                                                                      \
	X(MIG_ASKS, "mig-asks")                                                                    \
	X(MIG_MENDS, "mig-mends")                                                                  \
	X(MIG_AGAIN, "mig-again")                                                                  \
	X(MIG_PAIR, "mig-pair")                                                                    \
	X(MIG_WANTS, "mig-wants")                                                                  \
	X(MIG_FILLED, "mig-filled")                                                                \
	X(MIG_LOST, "mig-lost")                                                                    \
	X(MIG_HAVE, "mig-have")                                                                    \
	X(MIG_MENDED, "mig-mended")                                                                \
	X(MIG_WHOLE, "mig-whole")

enum step {
#define X(e, name) STEP_##e,
	STEP_LIST(X)
#undef X
		STEP_MAX,
};

/* Any thread. Returns at once unless the environment names this step. */
void step_reached(enum step s);
/* "a b c ...": for `ftvmm run --steps` and the tests that walk them. */
const char *step_name(enum step s);

#endif
