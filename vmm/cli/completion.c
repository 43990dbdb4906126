#include "vmm/cli/completion.h"

#include <stdio.h>
#include <string.h>

#include "ft/common/ft.h"
#include "vmm/cli/cmd_trial.h"
#include "vmm/cli/command.h"
#include "vmm/conf/config.h"
#include "vmm/cli/ctl_sock.h"
#include "vmm/conf/option.h"

/* Where we offer nothing, bash offers files. */
static const char bash[] =
	"_ftvmm()\n"
	"{\n"
	"\tmapfile -t COMPREPLY < <(\"$1\" completion bash \"${COMP_WORDS[@]:1:COMP_CWORD}\")\n"
	"\tcase $COMPREPLY in *[=:]) compopt -o nospace ;; esac\n"
	"} 2> /dev/null\n"
	"complete -o default -F _ftvmm ftvmm\n";

static void offer(const char *word, size_t len, const char *typed)
{
	size_t n = strlen(typed);

	if (len && n <= len && !memcmp(word, typed, n))
		printf("%.*s\n", (int)len, word);
}

static void offer_vm(void *typed, const char *name)
{
	offer(name, strlen(name), typed);
}

/*
 * The words of a usage text, each up to what the user is to replace, which is in capitals. Flags
 * only once a dash is typed: they may stand where a file does. What follows a comma is more of the
 * same.
 */
static void offer_words(const char *text, const char *typed)
{
	static const char between[] = " |[]", capitals[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	while (*(text += strspn(text, between))) {
		size_t whole = strcspn(text, between), len = strcspn(text, capitals);

		if (*text != ',' && (*text != '-' || *typed == '-'))
			offer(text, len < whole ? len : whole, typed);
		text += whole;
	}
}

/* Is word n of a usage text the user's alone, such as a file's name? */
static bool is_own(const char *text, int n)
{
	while (n-- && *text) {
		text += strcspn(text, " ");
		text += strspn(text, " ");
	}
	return *text >= 'A' && *text <= 'Z';
}

static const struct option *find_option(const char *word)
{
	const struct option_table *t = config_options();

	if (word[0] != '-' || !word[1])
		return NULL;
	return word[1] == '-' ? option_find(t, word + 2, strlen(word + 2))
			      : option_find_letter(t, word[1]);
}

static void offer_value(const struct option *o, const char *typed)
{
	if (o->type == OPT_TEXT)
		offer_words(o->metavar, typed);
	for (const struct option_choice *c = o->choices; c && c->name; c++)
		if (c->value >= 0)
			offer(c->name, strlen(c->name), typed);
}

/* Of run and check, whose bare words are files. */
static void offer_option(const char *before, const char *typed)
{
	const struct option_table *t = config_options();
	const struct option *o = find_option(before);
	char word[64];

	if (o && o->type != OPT_FLAG && o->type != OPT_SET) {
		offer_value(o, typed);
		return;
	}
	for (unsigned i = 0; i < t->n && *typed == '-'; i++)
		offer(word, (size_t)snprintf(word, sizeof(word), "--%s", t->rows[i].name), typed);
}

/* The last of the states that are typed, behind the others. */
static void offer_states(const char *typed)
{
	const char *comma = strrchr(typed, ',');
	int before = comma ? (int)(comma + 1 - typed) : 0;
	char word[256];

	for (unsigned i = 0; ft_word_at(i); i++)
		offer(word,
		      (size_t)snprintf(word, sizeof(word), "%.*s%s", before, typed, ft_word_at(i)),
		      typed);
}

/* Behind shell or run. */
static void offer_trial_host(const char *typed)
{
	static const char *const hosts[] = {"A", "B", "client"};

	for (unsigned i = 0; i < 3; i++)
		offer(hosts[i], strlen(hosts[i]), typed);
}

static void complete(int n, char **words)
{
	const struct command *c = command_find(words[0]);
	char *typed = words[n - 1];

	if (n == 1)
		for (unsigned i = 0; (c = command_at(i)); i++)
			offer_words(c->name, typed);
	else if (!c)
		return;
	else if (!strncmp(c->args, "[VM.json]", 9))
		offer_option(words[n - 2], typed);
	else if (n == 2 && c->ask && *typed != '-')
		ctl_sock_names(offer_vm, typed, NULL);
	else if (n == 3 && !strcmp(c->name, "wait") && *typed != '-' && strlen(typed) < 200)
		offer_states(typed);
	else if (c->main == cmd_trial &&
		 (!strcmp(words[n - 2], "shell") || !strcmp(words[n - 2], "run")))
		offer_trial_host(typed);
	else if (*typed == '-' || !is_own(c->args, n - 2))
		offer_words(c->args, typed);
}

int completion_main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "bash")) {
		fprintf(stderr, "ftvmm: completion: for which shell? There is bash\n");
		return EXIT_USAGE;
	}
	if (argc == 2)
		fputs(bash, stdout);
	else
		complete(argc - 2, argv + 2);
	return EXIT_DONE;
}
