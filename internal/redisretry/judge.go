package redisretry

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"
)

// verdict is what an error of a command means.
type verdict int

const (
	wellDone verdict = iota
	outage
	missingRights // or a wrong configuration
	refused
	answer // one that callers expect, such as redis.Nil
)

// judge tells the kinds of errors apart.
func judge(err error) verdict {
	if err == nil {
		return wellDone
	}
	if errors.Is(err, redis.Nil) || errors.Is(err, redis.TxFailedErr) || errors.Is(err, redis.ErrClosed) {
		return answer
	}
	var final *finalError
	if errors.As(err, &final) {
		return answer
	}
	var reply redis.Error
	if !errors.As(err, &reply) {
		return outage // the network, the dialler or the pool's time-out
	}
	switch kind, _ := Diagnose(reply.Error()); kind {
	case Outage:
		return outage
	case Rights:
		return missingRights
	default:
		return refused
	}
}

// Diagnose returns of which kind an error reply of Redis is, "" for one that no waiting will
// change, and for Rights what an operator can do.
func Diagnose(reply string) (kind Kind, remedy string) {
	reply = innermost(reply)
	if remedy := remedyFor(reply); remedy != "" {
		return Rights, remedy
	}
	for _, prefix := range outageReplies {
		if strings.HasPrefix(reply, prefix) {
			return Outage, ""
		}
	}
	return "", ""
}

// outageReplies are the error replies of a server that is starting, failing over, full, or
// cannot write at the moment. EXECABORT: a cause that is not known, see causes.
var outageReplies = [...]string{
	"LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "NOREPLICAS ",
	"MISCONF ", "OOM ", "EXECABORT ", "BUSY ", "ERR max number of clients reached",
}

// innermost is the reply that a command inside of a script got, which Redis before 7 wraps:
// "ERR Error running script (call to f_0123): @user_script:1: -OOM command not allowed".
func innermost(reply string) string {
	if strings.HasPrefix(reply, "ERR Error running script") {
		if _, inner, ok := strings.Cut(reply, ": -"); ok {
			return inner
		}
	}
	return reply
}

// remedies are the error replies that an operator can mend, with what to do. Their first group
// is put in the place of %s.
var remedies = [...]struct {
	reply  *regexp.Regexp
	remedy string
}{
	// Redis does not read more than 10 arguments, or 16 KiB, of a client that it does not know yet.
	{regexp.MustCompile(`^NOAUTH |^ERR Protocol error: unauthenticated `), "the server asks for a password: set it in the URL%s"},
	{regexp.MustCompile(`^WRONGPASS |^ERR invalid password`), "the password is wrong, or the user is unknown or off: set the right ones in the URL%s"},
	{regexp.MustCompile(`^ERR AUTH <password> called without|^ERR Client sent AUTH, but no password`), "the server has no password: take it out of the URL%s"},
	{regexp.MustCompile(`^(?:NOPERM|ERR ACL failure in script).* run the ('[^']+') command`), "the user may not run the command %s: grant it (ACL SETUSER)"},
	{regexp.MustCompile(`^(?:NOPERM|ERR ACL failure in script|ERR The user executing the script can't).* channel`), "the user may not publish: grant the channels%s that are in use, such as celery-task-meta-* (ACL SETUSER)"},
	{regexp.MustCompile(`^(?:NOPERM|ERR ACL failure in script|ERR The user executing the script can't).* key`), "the user may not touch a key: grant the keys%s that are in use (ACL SETUSER)"},
	{regexp.MustCompile(`^(?:NOPERM |ERR ACL failure in script|ERR The user executing the script can't)`), "the user may not run a command that a script uses: grant it%s (ACL SETUSER)"},
	{regexp.MustCompile(`^ERR DB index is out of range|^ERR invalid DB index`), "the server has no database of this number: set another in the URL%s, or raise the server's databases"},
	{regexp.MustCompile(`^ERR SELECT is not allowed in cluster mode`), "a cluster has database 0 only: take the number out of the URL%s"},
	{regexp.MustCompile(`^(?i:ERR unknown (?:redis )?command) ?(?:called from script script)?(['\x60][^'\x60]*['\x60])?`), "the server does not have a command that is needed%s: enable it (rename-command, or what the provider leaves out)"},
	{regexp.MustCompile(`^DENIED `), "the server is in protected mode and refuses other hosts: give it a password%s, or bind it to this network"},
}

// shut are the replies after which no command of the connection will do.
var shut = regexp.MustCompile(`NOAUTH |Protocol error: unauthenticated |WRONGPASS |ERR invalid password|ERR AUTH <password>|ERR Client sent AUTH|ERR (invalid )?DB index|ERR SELECT is not|DENIED `)

// remedyFor returns what to do about missing rights or a wrong configuration, "" if the reply
// tells of something else.
func remedyFor(reply string) string {
	for _, r := range remedies {
		if m := r.reply.FindStringSubmatch(reply); m != nil {
			return fmt.Sprintf(r.remedy, strings.Join(m[1:], ""))
		}
	}
	return ""
}
