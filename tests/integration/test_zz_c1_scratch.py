import time, mlflow, pytest, os, threading, multiprocessing, random
from concurrent.futures import ThreadPoolExecutor
from mlflow import MlflowClient
from harness.pipeline import Pipeline
def delivered(stage):
    d=time.monotonic()+60
    while not stage.recorder.flush():
        assert time.monotonic()<d; time.sleep(.1)
@pytest.fixture
def p(mlflow_server, proxy_before, fresh_mlflow):
    proxy = proxy_before(mlflow_server.uri); p=Pipeline(proxy.uri); p.client=MlflowClient(mlflow_server.uri); p.proxy=proxy
    return p

def _w(n):
    for i in range(50): mlflow.log_metric(f"f{n}", float(i), step=i)

def test_fork_with_busy_threads(p):
    stop=threading.Event()
    with p.stage(on_error="log") as stage:
        def busy(n):
            i=0
            while not stop.is_set():
                mlflow.log_metric(f"t{n}", float(i), step=i); mlflow.log_param(f"p{n}_{i}", i) if i<50 else None; i+=1
                if i>2000: break
        ts=[threading.Thread(target=busy,args=(n,)) for n in range(4)]
        [t.start() for t in ts]
        ws=[multiprocessing.get_context("fork").Process(target=_w,args=(n,)) for n in range(6)]
        for w in ws: w.start(); time.sleep(.05)
        for w in ws:
            w.join(60); assert w.exitcode==0
        stop.set(); [t.join() for t in ts]
    r=p.run(stage.run_id)
    for n in range(6):
        assert len(p.client.get_metric_history(stage.run_id, f"f{n}"))==50
    print(r.info.status, len(r.data.params))

def test_flaky(p):
    # the proxy goes away and comes back while trials run
    rnd=random.Random(7); stop=threading.Event()
    def chaos():
        while not stop.is_set():
            time.sleep(rnd.uniform(.1,.6))
            k=rnd.choice(["reset","lost","503","refused","half"])
            if k=="refused":
                with p.proxy.refused(): time.sleep(rnd.uniform(.1,1.0))
            elif k=="503": p.proxy.answer(503, times=2)
            else: getattr(p.proxy,k)(times=1)
    with p.stage(on_error="log") as stage:
        t=threading.Thread(target=chaos); t.start()
        def trial(n):
            with mlflow.start_run(nested=True, run_name=f"trial {n}"):
                mlflow.log_params({"n": n, "x": n*2})
                for i in range(20):
                    mlflow.log_metric("loss", i/(n+1), step=i); time.sleep(.005)
        with ThreadPoolExecutor(4) as pool: list(pool.map(trial, range(40)))
        stop.set(); t.join(); p.proxy.forget()
    delivered(stage)
    below=p.below(stage.run_id)
    print(len(below), stage.run_id)
    names=sorted(r.info.run_name for r in below)
    assert names==sorted(f"trial {n}" for n in range(40)), names
    assert {r.info.status for r in below}=={"FINISHED"}
    for r in below:
        assert len(r.data.params)==2
        assert len(p.client.get_metric_history(r.info.run_id,"loss"))==20
