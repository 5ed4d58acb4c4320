// Package control asks and tells Celery workers by remote control, as `celery inspect` and
// `celery control` do. It is the client's side of what internal/remote answers, and speaks to our
// workers and to Celery's alike.
//
// Start with [Client]. [Client.Ask] gathers the replies to a command, [Client.Tell] wants none.
// [Client.Workers] is what all workers hold at a moment. [Client.Pause] and [Client.Resume] have
// workers stop and begin to consume a queue; [Pauses] are the pauses that were noted in Redis (DB5),
// and [Client.Enforce] keeps them.
//
// What is promised: nothing waits longer than its context and [Client.Wait] say, once there is a
// connection. What a worker says is read with bounds: 1 MB a reply, 32 MB and 1,000 nodes a
// question. A reply that makes no sense is passed over, as is one to another question and the
// second of a node.
//
// A pause holds for workers that start later only while somebody calls Enforce: a gateway does. A
// worker begins to consume its queues by itself when it starts, and asks nobody.
//
// What it does not do: it asks nobody whose control_exchange is another than celery, and reads no
// replies but JSON (Celery's workers reply in their task_serializer).
//
// Sources: kombu/pidbox.py, celery/app/control.py, celery/worker/control.py.
package control
