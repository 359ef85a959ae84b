// Package router carries one job from its submission to its one terminal event: it asks a scheduler where the job may
// run, keeps the line of those that wait and gives each freed slot to the job that fits it best, starts one shared load
// for a model that no worker holds, posts the request to the worker in the worker's own protocol, hands the answer to a
// stream, retries elsewhere what the client has not seen yet, continues what it has, and settles queue, slot and caller
// exactly once, whoever leaves, dies, hangs or cancels meanwhile. It owns no policy, no storage and no event format:
// those come through the small interfaces Scheduler, Queue, Fleet, Dialer and Streams.
package router
