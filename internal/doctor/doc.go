// Package doctor looks at a deployment and says what is wrong with it, with what to do about each.
//
// Start with [Examine]. It asks the broker, each role of Redis, the workers, the model's endpoint and
// the machine at the same time, and then judges what they said: each check is a function of what was
// found, and asks nobody. A [Report] has a [Finding] for each check, and more where several things are
// wrong.
//
// What is promised: no job is taken or published, no key is written, and no queue or exchange of jobs is created. An empty file is made in
// the folder of uploads, and removed. Workers are asked as celery inspect asks them: that declares the exchanges celery.pidbox and
// reply.celery.pidbox where they are missing, has a queue for the answers until the doctor ends, and publishes questions. With
// ONCEOVER_REMOTE_CONTROL=false it is left out. All servers together may take [Limit], whatever they do. Some hundred commands go to
// Redis, none of which looks at more than one key. No finding holds a password, a token or the query of a URL.
//
// What it does not do: it reads no configuration of producers, and no message. It does not ask the
// model about a picture, which would cost money: `onceover vision check` does.
//
// docs/doctor.md has a section for each check.
package doctor
