#include "ft/role/secondary_do.h"

#include <stdio.h>
#include <string.h>

void secondary_post(struct secondary *s, enum secondary_event ev)
{
	fsm_post(&s->fsm, ev);
}

void secondary_timer(struct secondary *s, uint64_t delay_ns)
{
	loop_timer_set(s->ft->loop, &s->timer_op, delay_ns);
}

bool secondary_has_link(const struct secondary *s)
{
	return s->main.fd >= 0;
}

int secondary_reply(struct secondary *s, enum frame_type type, uint64_t epoch, const char *text)
{
	struct iovec iov = {(void *)text, text ? strlen(text) : 0};

	return stream_send(&s->main, type, epoch, &iov, text ? 1 : 0, loop_now_ns() + REPLY_NS);
}

int secondary_say_welcome(struct secondary *s)
{
	const struct wire_side w = {
		.side = arbiter_side(s->ft->arbiter), .kept = s->kept, .dismiss = 1};
	struct iovec iov = {(void *)&w, sizeof(w)};

	return stream_send(&s->main, FRAME_WELCOME, 0, &iov, 1, loop_now_ns() + REPLY_NS);
}

void secondary_close_link(struct secondary *s)
{
	struct loop *l = s->ft->loop;

	loop_poll_del(l, &s->main_op);
	loop_work_del(l, &s->read_work);
	heart_stop(&s->heart);
	stream_done(&s->main);
	s->main.fd = -1;
	s->reading_stopped = false;
	fsm_forget(&s->fsm, SEC_EV_LOST, SEC_EV_MAX - 1);
}

void secondary_lose(struct secondary *s, const char *why)
{
	if (!secondary_has_link(s))
		return;
	snprintf(s->why, sizeof(s->why), "%s", why);
	secondary_close_link(s);
	secondary_post(s, SEC_EV_LOST);
}

void secondary_reject(struct secondary *s, const char *why)
{
	if (secondary_has_link(s))
		secondary_reply(s, FRAME_REFUSE, 0, why);
	secondary_lose(s, why);
}

void secondary_listen_again(struct secondary *s, const char *why)
{
	secondary_close_link(s);
	loop_timer_del(s->ft->loop, &s->timer_op);
	arbiter_forget(s->ft->arbiter);
	arbiter_set_token(s->ft->arbiter, 0);
	s->claimed = 0;
	marks_forget(&s->ft->marks);
	twin_abandon(&s->twin);
	s->twin.unfit = false;
	if (s->has_vm) {
		locking_forget(&s->locking, s->vm);
		diskapply_drop(&s->disks);
		diskapply_done(&s->disks); /* serves events meanwhile */
		disk_compare_done(&s->compare);
		vm_destroy(s->vm);
		stage_done(&s->stage);
		s->has_vm = s->ft->images_behind = false;
		s->ft->stands = 0;
	}
	fsm_forget(&s->fsm, SEC_EV_FITS, SEC_EV_MAX - 1);
	s->ft->peer[0] = 0;
	ft_set(s->ft, FT_ELSEWHERE, FT_NONE, why);
}
