/* The actions of the destination's table (postcopy/phases.c), by what they are about. */
#ifndef POSTCOPY_DEST_DO_H
#define POSTCOPY_DEST_DO_H

#include "postcopy/dest.h"

#define DEST_SILENT_NS 30000000000ull

/* postcopy/dest_receive.c */
void dest_build(void *arg);
void dest_welcome(void *arg);
void dest_take_part(void *arg);
void dest_silent(void *arg);
void dest_drop(void *arg);

/* postcopy/dest_run.c */
void dest_load(void *arg);
void dest_load_now(struct dest *d); /* nothing that this touches is missing */
void dest_say_ready(void *arg);
void dest_refuse(void *arg);
void dest_run(void *arg);
void dest_alone(void *arg);
void dest_answer_never(void *arg);
void dest_answer_runs(void *arg);
void dest_drop_and_answer(void *arg);

/* postcopy/dest_fill.c: it runs, and its memory comes in */
int dest_open_pager(struct dest *d, struct err *e);
void dest_pair(void *arg);
void dest_try_load(void *arg);
void dest_begin_fill(void *arg);
void dest_watch(void *arg);
void dest_arrived(void *arg);
void dest_complete(void *arg);
void dest_cut(void *arg);
void dest_cut_again(void *arg);
void dest_stand(void *arg);
void dest_have(void *arg);
bool dest_has_said_have(const struct dest *d); /* all of it */
void dest_mend(void *arg);
void dest_mend_late(void *arg);
void dest_end_of_fill(void *arg);
void dest_open_file(void *arg);
/* COMPLETE, if it is; after whatever may have been the last thing. */
void dest_look_whether_complete(struct dest *d);

/* postcopy/dest_disks.c: images that are copied to here */
/* The images of d->copied: they say that they are parts from here on. */
int dest_disks_open(struct dest *d, struct err *e);
int dest_disks_take(struct dest *d, const struct frame *f, struct err *e); /* FRAME_DISK */
/* So long may nothing come from the source: it may be the images that take nothing. */
uint64_t dest_disks_patience(const struct dest *d);
bool dest_disks_full(const struct dest *d); /* nothing more for now: it reads on by itself */
int dest_disks_end(struct dest *d,
		   struct err *e); /* all has come; WRITTEN when it is on the medium */
bool dest_disks_written(const struct dest *d);
void dest_disks_keep(struct dest *d); /* they are the VM's */
void dest_disks_drop(struct dest *d); /* they are nothing; before the VM is destroyed */

/* Shared by them: postcopy/dest.c */
void dest_stray(void *arg);
void dest_post(struct dest *d, enum dest_event ev);
void dest_timer(struct dest *d, uint64_t delay_ns);
bool dest_has_link(const struct dest *d);
int dest_say(struct dest *d, enum frame_type type, const void *data, size_t len);
void dest_lose(struct dest *d, const char *why);
/* A rule was broken, or this side cannot be it: tell the source why, and drop the link. */
void dest_reject(struct dest *d, const char *why);
void dest_close_link(struct dest *d);
void dest_close_doors(struct dest *d);
/* Give all of it up, and wait for a source. State DST_LISTEN. */
void dest_listen_again(struct dest *d, const char *why);
/* Read the link from here on. */
void dest_listen_to_link(struct dest *d);
/* The urgent link may be seen to end first: a GO that came before counts. */
void dest_hear_go(struct dest *d);

#endif
